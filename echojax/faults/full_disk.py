"""A disk that is full: a small one of our own, or a limit on how large files may become."""

import contextlib
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from echojax.faults.hit import Hit, refused
from echojax.faults.run_folder import files_of, left_behind, newest
from echojax.faults.tiny_run import LostError, TinyRun, ended, wait_for
from echojax.faults.undisturbed import Undisturbed

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


def full_disk(
    tiny: TinyRun, run: Path, *, undisturbed: Undisturbed, rng: random.Random, moment: Moment,
    spare: int = 0,
) -> Hit:  # fmt: skip
    """Train until a write fails.

    Args:
        tiny: the training.
        run: the run folder.
        undisturbed: how it would end.
        rng: chooses the checkpoint after which the disk is full.
        moment: when the disk fills.
        spare: bytes that still fit.
    """
    step = {"from the start": 0, "after the last step": undisturbed.last}.get(moment)
    step = undisturbed.draw(rng) if step is None else step
    with small_disk(run.with_name(f"{run.name}-disk")) as disk:
        if disk is None:
            return _no_more_bytes(tiny, run, moment, step)
        there, seen = disk.folder / run.name, disk.seen_from_here / run.name
        process = tiny.start(there, prefix=disk.prefix)
        _reach(process, seen, step)
        disk.fill(spare)
        end = ended(process)
        problems = refused(end, "No space left on device")
        if seen.exists():
            shutil.copytree(seen, run)
        problems += tuple(left_behind(seen))
    return Hit(f"tmpfs without space (ENOSPC) {_when(moment, step)}", newest(run), problems)


def judge_on_a_full_disk(
    tiny: TinyRun, run: Path, *, undisturbed: Undisturbed, rng: random.Random
) -> Hit:
    """Judge a finished run again where no file can be written: all must stay as they were."""
    shutil.copytree(undisturbed.run, run)
    before = {path: path.read_bytes() for path in files_of(run)}
    hit = _no_more_bytes(tiny, run, "from the start", 0)
    after = {path: path.read_bytes() for path in files_of(run)}
    changed = [path.name for path in sorted(before) if after.get(path) != before[path]]
    problems = (f"{', '.join(changed)} are not as they were",) if changed else ()
    return hit._replace(problems=hit.problems + problems)


def _no_more_bytes(tiny: TinyRun, run: Path, moment: Moment, step: int) -> Hit:
    """Forbid a run to write files of more than a few bytes."""
    process = tiny.start(run)
    _reach(process, run, step)
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (_LIMIT_BYTES, hard))
    problems = refused(ended(process), "File too large") + tuple(left_behind(run))
    what = f"no file may have more than {_LIMIT_BYTES} bytes (EFBIG) {_when(moment, step)}"
    return Hit(what, newest(run), problems)


def _when(moment: Moment, step: int) -> str:
    return f"{moment}, step {step}" if step else moment


def _reach(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Wait for the checkpoint of a step."""
    wait_for(process, lambda: newest(run) >= step)
    if process.poll() is not None:
        raise LostError("training ended before its disk was full")
