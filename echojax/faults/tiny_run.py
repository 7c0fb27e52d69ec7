"""A small training that is started as a user starts it, again and again, on a file of its own."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from echojax.errors import UserError

EPOCHS = 8
CHECKPOINT_EVERY = 8
_FLAGS = (
    "--model", "gru4rec", "--width", "8", "--hidden-size", "16", "--max-len", "8",
    "--batch-size", "8", "--k-core", "2", "--learning-rate", "0.01", "--epochs", str(EPOCHS),
    "--patience", str(EPOCHS), "--checkpoint-every", str(CHECKPOINT_EVERY),
)  # fmt: skip
_PATIENCE_SECONDS = 300.0


class Ended(NamedTuple):
    """How a start of the training ended: exit code (negative: the signal), and what it printed."""

    code: int
    out: str
    error: str


class LostError(UserError):
    """A training did not do what the drill waited for."""


@dataclass(frozen=True)
class TinyRun:
    """The training, about a hundred steps with dropout, checkpoints more than one an epoch.

    Args:
        command: what starts training: the interpreter and ``experiments/train.py``.
        folder: an empty one for data, caches and run folders.
    """

    command: tuple[str, ...]
    folder: Path

    @property
    def data(self) -> Path:
        """The file of interactions."""
        return self.folder / "ring.inter"

    def write_data(self) -> None:
        """Write users who walk around a ring of 30 items, with some noise."""
        rng = np.random.default_rng(0)
        lines = ["user_id:token\titem_id:token\ttimestamp:float"]
        for user in range(60):
            item = int(rng.integers(30))
            for at in range(int(rng.integers(8, 20))):
                item = (item + 1) % 30 if rng.random() < 0.9 else int(rng.integers(30))
                lines.append(f"u{user}\ti{item}\t{at}")
        self.data.write_text("\n".join(lines) + "\n")

    def start(
        self,
        run: Path,
        *flags: str,
        prefix: Sequence[str] = (),
        command: Sequence[str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start training in the run folder ``run``, or go on there.

        Args:
            run: the run folder.
            flags: more flags.
            prefix: words before the command.
            command: instead of ``self.command``.
        """
        words = [*prefix, *(command or self.command), "--data-path", str(self.data), *_FLAGS]
        return subprocess.Popen(
            [*words, "--run-dir", str(run), "--resume", *flags],
            env=self._environment(), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def to_the_end(self, run: Path, *flags: str) -> Ended:
        """Train until it ends by itself."""
        return ended(self.start(run, *flags))

    def _environment(self) -> dict[str, str]:
        """Return an environment with caches of its own and one device, whatever there is."""
        given = os.environ.get("XLA_FLAGS", "")
        return os.environ | {
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{given} --xla_force_host_platform_device_count=1",
        }


def ended(process: subprocess.Popen[str], seconds: float = _PATIENCE_SECONDS) -> Ended:
    """Wait for the end of a process.

    Raises:
        LostError: it hangs; it has been killed.
    """
    try:
        out, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise LostError(f"training hangs: no end in {seconds:.0f} s") from None
    return Ended(process.returncode, out, error)


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds.

    Raises:
        LostError: the process ended before, or hangs; it has been killed.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if process.poll() is not None:
            raise LostError(f"training ended too early: {ended(process)}")
        if time.monotonic() > until:
            process.kill()
            raise LostError(f"training hangs: {ended(process)}")
        time.sleep(0.001)
