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

CHECKPOINT_EVERY = 8
# With this learning rate and noise the validation is best after about half of the epochs: what is
# killed later has its best checkpoint behind it, not before it.
SIZES = {
    "model": "gru4rec", "d_model": 8, "hidden_size": 16, "max_len": 8, "batch_size": 8, "k_core": 2,
    "learning_rate": 0.05, "epochs": 12, "patience": 12, "checkpoint_every": CHECKPOINT_EVERY,
}  # fmt: skip
_WAIT_SECONDS = 600.0


class Ended(NamedTuple):
    """How a start of the training ended: exit code (negative: the signal), and what it printed."""

    code: int
    out: str
    error: str


class LostError(UserError):
    """A training did not do what the drill waited for."""


@dataclass(frozen=True)
class TinyRun:
    """The training, 150 steps with dropout, more than one checkpoint an epoch.

    Args:
        command: what starts training: the interpreter and ``experiments/train.py``.
        data: the file of interactions.
        cache: folder for prepared data and compiled programs.
        seeds: how many are trained at once.
        patches: bugs that every start has (``echojax.faults.patches``).
    """

    command: tuple[str, ...]
    data: Path
    cache: Path
    seeds: int = 1
    patches: tuple[str, ...] = ()

    def start(
        self, run: Path, *flags: str, prefix: Sequence[str] = (), patches: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """Start training in the run folder ``run``, or resume there.

        Args:
            run: the run folder.
            flags: more flags.
            prefix: words before the command.
            patches: more bugs and faults, of this start.
        """
        python, script = self.command
        # Faults come first: a bug then has the last word on what they watch.
        through = ["-m", "echojax.faults.entry", ",".join([*patches, *self.patches])]
        words = [*prefix, python, *(through if through[-1] else ()), script]
        for name, value in (SIZES | {"seeds": self.seeds}).items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        words += ["--data-path", str(self.data), "--run-dir", str(run), "--resume", *flags]
        one_device = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1"
        caches = {"XDG_CACHE_HOME": str(self.cache)}
        return subprocess.Popen(
            words, env=os.environ | caches | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": one_device},
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def to_the_end(self, run: Path) -> Ended:
        """Train until it ends by itself."""
        return ended(self.start(run))


def write_data(path: Path) -> None:
    """Write users who walk around a ring of 30 items, with much noise."""
    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(60):
        item = int(rng.integers(30))
        for at in range(int(rng.integers(8, 20))):
            item = (item + 1) % 30 if rng.random() < 0.7 else int(rng.integers(30))
            lines.append(f"u{user}\ti{item}\t{at}")
    path.write_text("\n".join(lines) + "\n")


def ended(process: subprocess.Popen[str], seconds: float = _WAIT_SECONDS) -> Ended:
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
    until = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if process.poll() is not None:
            raise LostError(f"training ended too early: {ended(process)}")
        if time.monotonic() > until:
            process.kill()
            raise LostError(f"training hangs: {ended(process)}")
        time.sleep(0.001)
