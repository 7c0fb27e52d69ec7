"""One seed's run: where it stands, what it saves and logs; several of them resumed together."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from echojax.config import Config
from echojax.errors import UserError
from echojax.training.checkpoints import Checkpoints
from echojax.training.progress import MetricLog, TrainingProgress
from echojax.training.step import TrainState


class DivergedError(UserError):
    """A loss or an update is not finite."""


@dataclass
class SeedRun:
    """A seed's run."""

    config: Config  # with this seed
    folder: Path
    state: TrainState  # when it was last out of the stack of those in training
    progress: TrainingProgress
    checkpoints: Checkpoints
    per_epoch: int = 1  # steps of an epoch
    name: str = ""  # among several, for messages
    ends_alone: bool = False  # where it diverges, that is the end of this run only
    metrics: MetricLog | None = None  # its metrics.jsonl, while it is open
    # Validation NDCG@10 by epoch (of this start).
    history: dict[int, float] = field(default_factory=dict)
    ended: str = ""  # why it stopped early, if it did
    failed: bool = False  # and that it diverged, or found too little memory

    def stop_reason(self) -> str | None:
        """Return why this seed is done, or ``None`` while it is not."""
        if self.ended:
            return self.ended
        return self.progress.stop_reason(self.config, self.per_epoch)

    @contextmanager
    def open_metrics(self) -> Iterator[None]:
        """Open its metrics.jsonl, as it was at the step it stands at."""
        with MetricLog(self.folder, self.progress.steps, self.config) as self.metrics:
            yield

    def write_metrics(self, kind: str, epoch: float, **values: float) -> dict[str, Any]:
        """Write a record of the step that it stands at to metrics.jsonl; return it."""
        assert self.metrics is not None
        record = {"kind": kind, "step": self.progress.steps, "epoch": epoch, **values}
        self.metrics.write(record)
        return record

    def record_loss(self, loss: float, step: int) -> None:
        """Take in the loss of a step that is done."""
        if not math.isfinite(loss):
            raise self.diverged(f"the loss of step {step}")
        self.progress.epoch_loss += loss
        self.progress.epoch_steps += 1
        self.progress.steps = step

    def save(self, state: TrainState) -> None:
        """Write a checkpoint of ``state`` and of the progress."""
        self.checkpoints.save(state, asdict(self.progress))

    def finite(self, state: TrainState) -> TrainState:
        """Return the state, on the host, if it is worth keeping; raise where it is not finite.

        A loss is finite one step longer than the update that it leads to.
        """
        state = jax.device_get(state)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)):
            raise self.diverged(f"the update of step {state.step}")
        return state

    @contextmanager
    def divergence(self) -> Iterator[None]:
        """Take a divergence inside as the end of this run, where it ends alone."""
        try:
            yield
        except DivergedError as error:
            if not self.ends_alone:
                raise
            self.ended, self.failed = f"diverged: {error}", True

    def diverged(self, what: str) -> DivergedError:
        """Return the error for ``what``, a part of training that is NaN or infinite."""
        return DivergedError(
            f"{what} of seed {self.config.seed} is not finite; the last good checkpoint is kept. "
            "Try a smaller --learning-rate, another --seed, or look for odd values in the data"
        )

    def go_back(self, start: TrainState, newest: int | None = None) -> bool:
        """Take state and progress from the last checkpoint; return whether there was one.

        ``start`` is the state before the first step, ``newest`` the latest step to go back to.
        """
        found = self.checkpoints.restore(start, newest=newest)
        self.state, saved = (found.state, found.progress) if found else (start, {})
        if unknown := sorted(saved.keys() - {one.name for one in fields(TrainingProgress)}):
            raise UserError(
                f"{self.folder}: the checkpoint of step {self.state.step} was written by a newer "
                f"version: it has {unknown[0]}; go on with that version"
            )
        self.progress = TrainingProgress(**saved)
        return found is not None


def go_back_together(runs: Sequence[SeedRun], starts: Sequence[TrainState]) -> None:
    """Resume every seed from its checkpoints, as far as they were trained together all at one step.

    A kill between two seeds' checkpoints leaves the first of them ahead, in training or ended: it
    goes back to the step that the others stand at, and is trained together with them again. A seed
    that has no checkpoint of that step ended long before or after; it stays where it is.
    """
    for run, start in zip(runs, starts, strict=True):
        run.go_back(start)
    while active := [run.progress.steps for run in runs if run.stop_reason() is None]:
        earliest = min(active)
        ahead = [
            (run, start)
            for run, start in zip(runs, starts, strict=True)
            if run.progress.steps > earliest and _was_at(run.checkpoints.steps(), earliest)
        ]
        if not ahead:
            return
        for run, start in ahead:
            run.go_back(start, newest=earliest)


def _was_at(steps: list[int], step: int) -> bool:
    """Say whether a run can go back to ``step``; to the start only from its first checkpoint."""
    return step in steps or (step == 0 and len(steps) == 1)
