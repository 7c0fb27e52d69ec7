"""What became of a run after a fault."""

import re
from dataclasses import dataclass

import numpy as np

from echojax.faults.hit import Hit
from echojax.faults.run_state import End


@dataclass(frozen=True)
class Outcome:
    """A fault and what came of it.

    Attributes:
        fault: its kind.
        what: where it struck.
        newest: step of the newest checkpoint that it left whole.
        resumed_from: step that the next start went on from.
        difference: the largest between the final state and the undisturbed one's; 0 where every
            bit of state, losses and scores is the same; ``None``: there is no end.
        corrupt: a checkpoint that no byte was changed of is not what it should be.
        silent: the result is wrong, or damage was met, without a word.
        problems: whatever else went wrong.
        seconds: of all starts.
    """

    fault: str
    what: str
    newest: int
    resumed_from: int
    difference: float | None
    corrupt: bool
    silent: bool
    problems: tuple[str, ...]
    seconds: float

    @property
    def steps_lost(self) -> int:
        """Steps beyond the last whole checkpoint's that had to be trained again."""
        return self.newest - self.resumed_from

    @property
    def passed(self) -> bool:
        """Whether the run met the fault as it should."""
        bad = self.corrupt or self.silent or self.problems or self.difference is None
        return not bad and self.steps_lost == 0


def resumed_from(said: str) -> int:
    """Return the step that a start has said it goes on from; 0 where it starts anew."""
    found = re.search(r"^resumed from step (\d+)$", said, re.MULTILINE)
    return int(found[1]) if found else 0


def difference(end: End, undisturbed: End) -> float:
    """Return the largest difference of two final states, infinite where they are of other shapes.

    It is 0 only where losses and scores are the same too.
    """
    if end.state.keys() != undisturbed.state.keys():
        return np.inf
    largest = 0.0
    for name, theirs in undisturbed.state.items():
        ours = end.state[name]
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            return np.inf
        if ours.tobytes() != theirs.tobytes():
            far = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max()
            largest = max(largest, float(far) if np.isfinite(far) else np.inf)
    # A signal saves, and writes a line, at a step where an undisturbed run does not.
    same = undisturbed.losses.items() <= end.losses.items() and end.scores == undisturbed.scores
    return largest if same or largest else np.inf


def judge(
    fault: str, hit: Hit, *, damaged: bool, said: str, far: float | None, tolerance: float,
    clash: bool, problems: tuple[str, ...], seconds: float,
) -> Outcome:  # fmt: skip
    """Return what came of a fault.

    Args:
        fault: its kind.
        hit: what it did.
        damaged: it left a damaged checkpoint behind the newest whole one.
        said: what the next start printed.
        far: from ``difference``; ``None`` where there is no end.
        tolerance: the largest good one.
        clash: a checkpoint has another checksum than another run's of the same step.
        problems: of the resumed run.
        seconds: of all starts.
    """
    told = "is damaged" in said
    wrong = far is not None and far > tolerance
    return Outcome(
        fault=fault,
        what=hit.what,
        newest=hit.newest,
        resumed_from=resumed_from(said),
        difference=far,
        corrupt=clash or (told and not damaged),
        silent=wrong or (damaged and not told),
        problems=hit.problems + problems,
        seconds=seconds,
    )
