"""The progress of a run: what is saved with its state, logged, and shown to the user."""

import importlib.util
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from echojax.config import Config, as_dict
from echojax.errors import UserError, one_line
from echojax.files import write_atomically
from echojax.hosts import is_main_process
from echojax.training.optimizer import schedule_steps

log = logging.getLogger(__name__)

_TIMED_SECONDS = 10.0  # of steps, before the time of an epoch is estimated
_LONG_SECONDS = 600.0  # an estimate above this is logged


@dataclass
class TrainingProgress:
    """What the loop needs besides the state to resume exactly; saved with each checkpoint."""

    steps: int = 0  # done
    best_ndcg: float = -1.0  # best validation NDCG@10 so far
    best_step: int = 0
    best_epoch: int = 0
    without_gain: int = 0  # validations since the best one
    epoch_loss: float = 0.0  # summed over this epoch's steps so far
    epoch_steps: int = 0
    seconds: float = 0.0  # spent in training steps, over all starts
    share: float = 0.0  # this run's share of these seconds, if others were trained at once
    waited: float = 0.0  # the part of these seconds that was spent waiting for input
    examples: int = 0  # rows trained on, over all starts
    seeds_at_once: int = 1  # most seeds in one program, this one included
    memory_bytes: int | None = None  # of the compiled step, for one seed
    devices: list[str] = field(default_factory=list)  # descriptions of all that trained the run
    commits: list[str] = field(default_factory=list)  # all versions of the code that trained it

    @property
    def mean_loss(self) -> float:
        """Mean loss of this epoch's steps so far; NaN before the first."""
        return self.epoch_loss / self.epoch_steps if self.epoch_steps else math.nan

    def add_validation(self, ndcg: float, epoch: int) -> bool:
        """Record a validation after the steps so far; return whether it is the best."""
        if ndcg > self.best_ndcg:
            self.best_ndcg, self.best_step, self.best_epoch = ndcg, self.steps, epoch
            self.without_gain = 0
            return True
        self.without_gain += 1
        return False

    def record_program(self, memory_bytes: int | None, seeds: int) -> None:
        """Record what the first program needs; later programs hold fewer seeds."""
        self.seeds_at_once = max(self.seeds_at_once, seeds)
        if self.memory_bytes is None and memory_bytes is not None:
            self.memory_bytes = memory_bytes // seeds

    def record_origin(self, device: str, commit: str | None) -> None:
        """Record what trains from here on: after a resume, maybe another device or other code."""
        for known, new in ((self.devices, device), (self.commits, commit)):
            if new is not None and new not in known:
                known.append(new)

    def stop_reason(self, config: Config, steps_per_epoch: int) -> str | None:
        """Return why the run is over, or ``None`` while it is not."""
        step = self.steps
        # A falling learning rate brings its gains late: patience must not end the run before. It
        # ends no run inside an epoch: one that is resumed there goes on to the epoch's end, too.
        warmup, decay = schedule_steps(config, steps_per_epoch)
        falls = decay is not None and step - step % steps_per_epoch < warmup + decay
        if self.without_gain >= config.patience and not falls:
            return f"no better validation NDCG@10 in {config.patience} validations"
        if step >= config.epochs * steps_per_epoch:
            return f"{step // steps_per_epoch} epochs done"
        if config.max_steps is not None and step >= config.max_steps:
            return f"{step} steps done"
        return None


class Display:
    """Shows a progress bar on a terminal, and elsewhere logs a line every ``seconds``.

    If epochs are long, it also logs how long one takes, and that there are at most ``most_epochs``.
    """

    def __init__(self, console: Console, seconds: float = 20.0, most_epochs: float = 0):
        self._console, self._seconds = console, seconds
        self._bar: Progress | None = None
        self._logged = time.monotonic()
        self._most_epochs = most_epochs  # 0 once the duration of an epoch is logged
        self._first: tuple[float, int] | None = None  # when the first step of an epoch ended

    @contextmanager
    def epoch(self, epoch: int, steps: int, done: int) -> Iterator[None]:
        """Show the bar of one epoch."""
        self._first = None
        if not self._console.is_terminal:
            yield
            return
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps  {task.fields[text]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            bar.add_task("", total=steps, completed=done, epoch=epoch, text="")
            self._bar = bar
            yield
        self._bar = None

    def step(self, epoch: int, done: int, steps: int, loss: float, rate: float) -> None:
        """Show one step: ``rate`` in examples per second (NaN while unknown)."""
        self._log_duration(done, steps)
        text = f"loss {loss:.4f}  {rate:,.0f} examples/s" if math.isfinite(rate) else ""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, text=text)
        elif time.monotonic() - self._logged >= self._seconds and text:
            self._logged = time.monotonic()
            log.info(f"epoch {epoch}  step {done}/{steps}  {text}")

    def _log_duration(self, done: int, steps: int) -> None:
        """Log once, after some seconds of steps, how long an epoch takes, if it takes long."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        began, first = self._first
        if not self._most_epochs or done < first + 2 or now < began + _TIMED_SECONDS:
            return
        epoch = (now - began) / (done - first) * steps
        if epoch * min(1, self._most_epochs) >= _LONG_SECONDS:
            length = f"{epoch / 60:.0f} min" if epoch < 5400 else f"{epoch / 3600:.0f} h"
            most = math.ceil(self._most_epochs)
            log.info(
                f"about {length} an epoch on this {jax.default_backend().upper()}, at most {most} "
                f"epoch{'s' * (most > 1)}"
            )
        self._most_epochs = 0


class MetricLog:
    """Appends to ``metrics.jsonl``, after removing the lines of steps that are done again.

    Only the first host writes. TensorBoard and W&B get the metrics too, if the flags say so.
    """

    def __init__(self, folder: Path, step: int, config: Config):
        first = is_main_process()
        path = folder / "metrics.jsonl" if first else Path(os.devnull)
        if first:
            write_atomically(path, "".join(_lines_up_to(path, step)))
        self._wandb = _wandb(folder, config) if first and config.wandb else None
        self._tensorboard: Any = None
        if first and config.tensorboard:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(folder / "tensorboard"))
        self._file = path.open("a", buffering=1)

    def write(self, record: dict[str, Any]) -> None:
        """Write one record; it has ``kind`` and ``step``."""
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        kind, step = record["kind"], record["step"]
        numbers = {
            f"{kind}/{name}": value
            for name, value in record.items()
            if isinstance(value, int | float) and name != "step"
        }
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def check_extras(config: Config) -> None:
    """Raise ``UserError`` if TensorBoard or W&B is wanted and not installed."""
    for wanted, module, extra in (
        (config.tensorboard, "tensorboardX", "tensorboard"),
        (config.wandb, "wandb", "wandb"),
    ):
        if wanted and importlib.util.find_spec(module) is None:
            raise UserError(f"--{extra} needs: pip install 'echojax[{extra}]'")


def _lines_up_to(path: Path, step: int) -> list[str]:
    """Return the whole lines whose step is at most ``step`` (a killed run leaves half a line)."""
    kept = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step and line.endswith("\n"):
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return kept


def _wandb(folder: Path, config: Config) -> Any:
    import wandb

    file = folder / "wandb-id"  # written once: folders of other runs have the same name
    if not file.exists():
        write_atomically(file, f"{uuid4().hex}\n")
    try:
        return wandb.init(
            project="echojax",
            name=folder.name,
            dir=str(folder),
            config=as_dict(config),
            id=file.read_text(encoding="utf-8").strip(),
            resume="allow",
            reinit="create_new",  # several seeds log at once, each to its own
        )
    except wandb.Error as error:
        raise UserError(f"--wandb: {one_line(error)}") from None
