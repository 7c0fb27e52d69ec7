"""A disk that is full: a small one of our own, or a limit on what the process may write."""

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from echojax.faults.hit import Hit, refused
from echojax.faults.run_state import newest
from echojax.faults.tiny_run import LostError, TinyRun, ended, wait_for

Moment = Literal["from the start", "after a checkpoint", "after the last step"]

_MOUNT = 'mount -t tmpfs -o size=16m none "$0" && echo mounted && cat'
_LIMIT_BYTES = 64


@dataclass(frozen=True)
class SmallDisk:
    """A disk of 16 MiB that only a process of its own namespace, and its children, see mounted.

    Args:
        holder: the process.
        folder: where it is mounted, for the children.
    """

    holder: subprocess.Popen[str]
    folder: Path

    @property
    def seen_from_here(self) -> Path:
        """Where this process finds what is on the disk."""
        return Path(f"/proc/{self.holder.pid}/root{self.folder}")

    @property
    def prefix(self) -> list[str]:
        """Words that start a command where the disk is mounted."""
        who = ["--user", "--mount", "--preserve-credentials"]
        return ["nsenter", "--target", str(self.holder.pid), *who, "--"]

    def fill(self, spare: int) -> None:
        """Write until nothing more fits, then give ``spare`` bytes back."""
        with (self.seen_from_here / "ballast").open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 10, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
            file.truncate(file.tell() - spare)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk | None]:
    """Mount a small disk in a namespace, no privileges needed; ``None`` where refused."""
    folder.mkdir(exist_ok=True)
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, str(folder)]
    try:
        holder = subprocess.Popen(
            unshare, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
    except OSError:
        yield None
        return
    with holder:
        assert holder.stdout is not None
        yield SmallDisk(holder, folder) if holder.stdout.readline() == "mounted\n" else None
        # Leaving closes the holder's input, which ends it, and the disk with it.


def full_disk(tiny: TinyRun, run: Path, *, moment: Moment, last: int, spare: int = 0) -> Hit:
    """Train until a write fails.

    Args:
        tiny: the training.
        run: the run folder.
        moment: when the disk fills.
        last: the step that ends training.
        spare: bytes that still fit.
    """
    with small_disk(tiny.folder / "disk") as disk:
        if disk is None:
            return _no_more_bytes(tiny, run, moment, last)
        there, seen = disk.folder / run.name, disk.seen_from_here / run.name
        if run.exists():
            shutil.copytree(run, seen)
        least = newest(seen)
        process = tiny.start(there, prefix=disk.prefix)
        _reach(process, seen, moment, least, last)
        disk.fill(spare)
        end = ended(process)
        if seen.exists():
            shutil.copytree(seen, run, dirs_exist_ok=True)
        problems = refused(end, "No space left on device")
        if left := [path.name for path in disk.seen_from_here.iterdir() if path.name[0] == "."]:
            problems += (f"left behind: {left}",)
        return Hit(f"tmpfs without space (ENOSPC) {moment}", newest(run), end, problems)


def _no_more_bytes(tiny: TinyRun, run: Path, moment: Moment, last: int) -> Hit:
    """Forbid a run to write files of more than a few bytes."""
    process, least = tiny.start(run), newest(run)
    _reach(process, run, moment, least, last)
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (_LIMIT_BYTES, hard))
    end = ended(process)
    what = f"RLIMIT_FSIZE (EFBIG) {moment}; no small disk can be mounted here"
    return Hit(what, newest(run), end, refused(end, "File too large"))


def _reach(
    process: subprocess.Popen[str], run: Path, moment: Moment, least: int, last: int
) -> None:
    """Wait for the moment."""
    if moment == "from the start":
        return
    step = last if moment == "after the last step" else least + 1
    wait_for(process, lambda: newest(run) >= step)
    if process.poll() is not None:
        raise LostError("training ended before its disk was full")
