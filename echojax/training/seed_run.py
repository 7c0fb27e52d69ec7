"""The run of one seed: its state and progress, what it saves and logs, and how it is resumed."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from echojax.config import Config
from echojax.errors import UserError
from echojax.hosts import is_main_process
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
    state: TrainState  # as the last ``Loop.train`` left it
    progress: TrainingProgress
    checkpoints: Checkpoints
    per_epoch: int = 1  # steps of an epoch
    name: str = ""  # for messages, if there are several
    ends_alone: bool = False  # if it diverges, whether the others go on
    metrics: MetricLog | None = None  # its metrics.jsonl, while it is open
    # Validation NDCG@10 by epoch (of this start).
    history: dict[int, float] = field(default_factory=dict)
    ended: str = ""  # why it stopped early, if it did
    failed: bool = False  # whether that was divergence or too little memory

    def __post_init__(self) -> None:
        """Remember the run folder's configuration, by which ``save`` recognises the folder."""
        self._config_file = (self.folder / "config.json").absolute()
        self._config_bytes = _content(self._config_file)

    def stop_reason(self) -> str | None:
        """Return why this seed is done, or ``None`` while it is not."""
        if self.ended:
            return self.ended
        return self.progress.stop_reason(self.config, self.per_epoch)

    def write_metrics(self, kind: str, epoch: float, **values: float) -> dict[str, Any]:
        """Write a record of the present step to metrics.jsonl; return it."""
        assert self.metrics is not None
        record = {"kind": kind, "step": self.progress.steps, "epoch": epoch, **values}
        self.metrics.write(record)
        return record

    def record_loss(self, loss: float, step: int) -> None:
        """Record the loss of a step that is done."""
        if not math.isfinite(loss):
            raise self.diverged(f"the loss of step {step}")
        self.progress.epoch_loss += loss
        self.progress.epoch_steps += 1
        self.progress.steps = step

    def save(self, state: TrainState) -> None:
        """Write a checkpoint of ``state`` and of the progress.

        It is a ``UserError`` if the run folder is no longer that of this run: a checkpoint would
        lie in a folder that is not a run, or in another run.
        """
        self._check_folder()
        try:
            self.checkpoints.save(state, asdict(self.progress))
        except UserError:
            self._check_folder()  # it has gone meanwhile
            raise

    def _check_folder(self) -> None:
        if is_main_process() and _content(self._config_file) != self._config_bytes:
            raise UserError(
                f"{self.folder} was deleted, moved or replaced while this run was training; move "
                "it back and go on with --resume, or train anew"
            )

    def finite(self, state: TrainState) -> TrainState:
        """Return the state, on the host; ``DivergedError`` if it is not finite.

        The loss shows that only one step later.
        """
        state = jax.device_get(state)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)):
            raise self.diverged(f"the update of step {state.step}")
        return state

    @contextmanager
    def divergence(self) -> Iterator[None]:
        """End only this run if it diverges inside and it ``ends_alone``."""
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

    def go_back(self, start: TrainState, newest: int | None = None) -> None:
        """Take state and progress from the last checkpoint, if there is one.

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


def _content(file: Path) -> bytes | None:
    """Return the content of a file; ``None`` if there is none."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def earliest(runs: Iterable[SeedRun]) -> list[SeedRun]:
    """Return the runs with the fewest steps among those that have no reason to stop."""
    active = [run for run in runs if run.stop_reason() is None]
    return [run for run in active if run.progress.steps == min(a.progress.steps for a in active)]


def go_back_together(runs: Sequence[SeedRun]) -> None:
    """Resume every seed from its checkpoints, those that were trained together at the same step.

    A kill between two seeds' checkpoints leaves the first of them ahead, in training or ended: it
    goes back to the step of the others, and is trained together with them again. A seed that has no
    checkpoint of that step ended long before or after, and stays at its newest checkpoint.
    """
    starts = [run.state for run in runs]
    for run in runs:
        run.go_back(run.state)
    while group := earliest(runs):
        step = group[0].progress.steps
        ahead = [
            (run, start)
            for run, start in zip(runs, starts, strict=True)
            if run.progress.steps > step and _was_at(run.checkpoints.steps(), step)
        ]
        if not ahead:
            return
        for run, start in ahead:
            run.go_back(start, newest=step)


def _was_at(steps: list[int], step: int) -> bool:
    """Return whether a run can go back to ``step``; to the start only from its first checkpoint."""
    return step in steps or (step == 0 and len(steps) == 1)
