"""metrics.jsonl, one JSON object a line, and the same numbers to TensorBoard or W&B."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, Self

from echojax.config import Config, as_dict
from echojax.errors import UserError
from echojax.files import write_atomically
from echojax.hosts import is_main_process


class MetricLog:
    """Appends to ``metrics.jsonl``; lines newer than a resumed step are taken back first.

    The first host alone writes.

    Args:
        folder: the run folder.
        step: the step the run goes on from (0 for a new run).
        config: says whether TensorBoard and W&B are wanted.
    """

    def __init__(self, folder: Path, step: int, config: Config):
        first = is_main_process()
        path = folder / "metrics.jsonl" if first else Path(os.devnull)
        if first:
            write_atomically(path, "".join(_lines_up_to(path, step)))
        self._file = path.open("a", buffering=1)
        self._tensorboard = _tensorboard(folder) if first and config.tensorboard else None
        self._wandb = _wandb(folder, config) if first and config.wandb else None

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
        self.close()

    def close(self) -> None:
        """Close the file and the extras."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def check_extras(config: Config) -> None:
    """Raise ``UserError`` where TensorBoard or W&B are wanted and not installed."""
    for wanted, module, extra in (
        (config.tensorboard, "tensorboardX", "tensorboard"),
        (config.wandb, "wandb", "wandb"),
    ):
        if wanted and importlib.util.find_spec(module) is None:
            raise UserError(f"--{extra} needs: pip install 'echojax[{extra}]'")


def _lines_up_to(path: Path, step: int) -> list[str]:
    """Return the whole lines whose step is at most ``step`` (a killed run leaves half a line)."""
    kept = []
    for line in (
        path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        if path.exists()
        else []
    ):
        try:
            if json.loads(line)["step"] <= step and line.endswith("\n"):
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return kept


def _tensorboard(folder: Path) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))


def _wandb(folder: Path, config: Config) -> Any:
    import wandb

    return wandb.init(
        project="echojax", name=folder.name, dir=str(folder), config=as_dict(config),
        id=folder.name, resume="allow",
    )  # fmt: skip
