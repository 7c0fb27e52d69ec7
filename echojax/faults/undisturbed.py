"""The run that nothing disturbs: what the others must end like, and when they are disturbed."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

from echojax.errors import UserError
from echojax.faults.end import End, read_ends
from echojax.faults.tiny_run import CHECKPOINT_EVERY, TinyRun, ended

_LATER = 3  # validations after the best one: most faults strike there
_BEFORE = 0.2  # share of the faults that strike before it


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbed.

    Args:
        tiny: the training.
        run: its folder.
        ends: where each seed has ended.
        seconds: from start to end.
    """

    tiny: TinyRun
    run: Path
    ends: list[End]
    seconds: float

    @property
    def best(self) -> int:
        """The step by which every seed has had its best validation."""
        return max(end.best_step for end in self.ends)

    @property
    def last(self) -> int:
        """The step that ends training."""
        return max(self.ends[0].validations)

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints that were written, in order."""
        often = range(CHECKPOINT_EVERY, self.last, CHECKPOINT_EVERY)
        return sorted({*often, *self.ends[0].validations})

    def draw(self, rng: random.Random, spare: int = 1) -> int:
        """Return a checkpoint's step, mostly after the best; ``spare`` more follow in training."""
        steps = self.steps[: -1 - spare]
        later = [step for step in steps if step > self.best]
        return rng.choice(steps if rng.random() < _BEFORE else later)


def train_undisturbed(tiny: TinyRun, run: Path) -> Undisturbed:
    """Train.

    Raises:
        UserError: it fails, or is best too late: then nothing could strike after the best step.
    """
    began = time.monotonic()
    end = ended(tiny.start(run))
    seconds = time.monotonic() - began
    if end.code:
        raise UserError(f"the undisturbed run fails: {end.error[-300:]}")
    found = Undisturbed(tiny, run, read_ends(run), seconds)
    later = min(sum(step > one.best_step for step in one.validations) for one in found.ends)
    if later < _LATER:
        raise UserError(
            f"the undisturbed run is best {later} validations before its end, and {_LATER} are "
            "needed: what is killed there must have its best checkpoint behind it; choose other "
            "SIZES in echojax/faults/tiny_run.py"
        )
    return found
