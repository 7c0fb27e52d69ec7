"""A small training that is started as a user starts it, and what lies in its run folder."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from echojax.arrays import load_arrays
from echojax.errors import UserError

ROOT = Path(__file__).parent.parent.parent
CHECKPOINT_EVERY = 8
# With this learning rate and noise the validation is best after about half of the epochs: most
# faults strike after the best checkpoint, which must not be lost then.
SIZES = dict(
    model="gru4rec", d_model=8, hidden_size=16, max_len=8, batch_size=8, k_core=2,
    learning_rate=0.05, epochs=12, patience=12, checkpoint_every=CHECKPOINT_EVERY,
)  # fmt: skip
WAIT_SECONDS = 600.0


class Ended(NamedTuple):
    """How a start of the training ended: exit code (negative: the signal), and what it printed."""

    code: int
    out: str
    error: str


class LostError(UserError):
    """A training did not do what was waited for."""


@dataclass(frozen=True)
class Training:
    """A training of 144 steps with dropout; every start of it has ``bugs``, names of BUGS."""

    data: Path
    cache: Path
    seeds: int = 1
    bugs: tuple[str, ...] = ()

    def start(
        self, run: Path, *flags: str, prefix: Sequence[str] = (), fault: str = ""
    ) -> subprocess.Popen[str]:
        """Start training in a run folder, or resume there; ``fault`` is one of bugs.FAULTS."""
        # Faults come first: a bug then has the last word on what they watch.
        patches = ",".join([*filter(None, [fault]), *self.bugs])
        words = [*prefix, sys.executable]
        words += ["-m", "tests.fault_injection.bugs", patches] if patches else []
        words += [str(ROOT / "experiments/train.py"), "--resume", *flags]
        for name, value in (SIZES | {"seeds": self.seeds}).items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        words += ["--data-path", str(self.data), "--run-dir", str(run)]
        one_device = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1"
        own = {"XDG_CACHE_HOME": str(self.cache), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": one_device}
        return subprocess.Popen(
            words, env=os.environ | own, cwd=ROOT, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def to_the_end(self, run: Path) -> Ended:
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


def ended(process: subprocess.Popen[str], seconds: float = WAIT_SECONDS) -> Ended:
    """Wait for the end of a process; kill it and raise LostError where it hangs."""
    try:
        out, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise LostError(f"training hangs: no end in {seconds:.0f} s") from None
    return Ended(process.returncode, out, error)


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds; raise LostError where the process ends before, or hangs."""
    until = time.monotonic() + WAIT_SECONDS
    while not condition():
        if process.poll() is not None:
            raise LostError(f"training ended too early: {ended(process)}")
        if time.monotonic() > until:
            process.kill()
            raise LostError(f"training hangs: {ended(process)}")
        time.sleep(0.001)


def folders_of_seeds(run: Path) -> list[Path]:
    """Return the folder of each seed; a run of one seed is its own."""
    return sorted(run.glob("seed-*")) or [run]


def _checkpoints(folder: Path) -> list[str]:
    try:
        return [path.name for path in (folder / "checkpoints").iterdir()]
    except FileNotFoundError:
        return []


def whole_steps(folder: Path) -> list[int]:
    """Return the steps of a seed's checkpoints that were written to their end, in order."""
    return sorted(int(name) for name in _checkpoints(folder) if name.isdigit())


def newest(run: Path) -> int:
    """Return the newest checkpoint's step that every seed has reached; 0 where there is none."""
    return min(max(whole_steps(folder), default=0) for folder in folders_of_seeds(run))


def is_writing(run: Path) -> bool:
    """Return whether a checkpoint has its temporary name, which orbax changes once it is whole."""
    names = (name for folder in folders_of_seeds(run) for name in _checkpoints(folder))
    return any(not name.isdigit() for name in names)


def files_of(run: Path) -> list[Path]:
    """Return the files of a run but those of its checkpoints, in order."""
    found = (path for path in run.rglob("*") if path.is_file())
    return sorted(path for path in found if "checkpoints" not in path.relative_to(run).parts)


def broken_files(run: Path) -> list[str]:
    """Return what is wrong with files that must be whole or absent at any moment."""
    return [
        f"{path.relative_to(run)} is neither whole nor absent"
        for path in files_of(run)
        if not path.name.startswith(".") and not _whole(path)  # a killed write leaves its own name
    ]


def _whole(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".npz":
            load_arrays(path)
        elif path.suffix == ".jsonl":  # it grows: a killed run leaves half a line at its end
            [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        elif path.suffix == ".html":
            return path.read_bytes().rstrip().endswith(b"</html>")
    except FileNotFoundError:  # the next start is at work
        return True
    except ValueError:
        return False
    return True


def left_behind(run: Path) -> list[str]:
    """Return the temporary files and folders in a run folder and beside it."""
    inside, beside = (run.rglob(".*") if run.exists() else ()), run.parent.glob(f".{run.name}.*")
    return [f"{path.name} is left behind" for path in (*inside, *beside)]
