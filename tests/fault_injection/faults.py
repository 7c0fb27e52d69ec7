"""The faults: each strikes a training, and returns where it did and what training did wrong."""

import contextlib
import dataclasses
import random
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.fault_injection.reference import Reference
from tests.fault_injection.training import (
    CHECKPOINT_EVERY,
    Ended,
    LostError,
    Training,
    ended,
    files_of,
    is_writing,
    left_behind,
    newest,
    wait_for,
    whole_steps,
)

GRACE_SECONDS = 10.0
LOST_HOST_SECONDS = 90.0
FILE_BYTES = 512  # of the files of a run only the lock file is smaller


class Hit(NamedTuple):
    """Where a fault struck, the newest checkpoint's step that it left whole, what went wrong.

    ``run`` and ``training``: the folder and what resumes it, where they are others now.
    """

    what: str
    newest: int
    problems: tuple[str, ...] = ()
    run: Path | None = None
    training: Training | None = None


Fault = Callable[[Reference, Path, random.Random], Hit]


def refused(end: Ended, *words: str) -> tuple[str, ...]:
    """Return what is wrong with an end that should be exit code 2 and one line with ``words``."""
    lines = end.error.strip().splitlines()
    if end.code != 2 or len(lines) != 1 or not lines[0].startswith("error: "):
        return (f"no single error line: exit code {end.code}, {' / '.join(lines[-3:])}",)
    missing = [word for word in words if word not in lines[0]]
    return (f"the line {lines[0]!r} does not say {missing[0]!r}",) if missing else ()


# Processes that end before they are done.


def kill(reference: Reference, run: Path, rng: random.Random, *, moment: str) -> Hit:
    """Kill within milliseconds of a checkpoint's temporary name, of its name, or at any time."""
    step = 0 if moment == "start" else reference.draw(rng)
    after = rng.uniform(0, {"start": reference.seconds, "write": 0.06, "checkpoint": 0.1}[moment])

    def reached() -> bool:
        if moment == "write":
            return newest(run) > step or (newest(run) == step and is_writing(run))
        return newest(run) >= step

    process = reference.training.start(run)
    wait_for(process, reached)
    try:  # a busy machine may have sped up since the undisturbed run
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    end = ended(process)
    state = "mid-write" if is_writing(run) else "between writes"
    when = f"{after:.3f} s after the {moment} (step {step})"
    what = f"{when}, {state}" if end.code < 0 else f"{when}: it had ended by itself"
    return Hit(what, newest(run))


def kill_after(training: Training, run: Path, step: int) -> None:
    """Kill a training once the checkpoint of a step is written."""
    process = training.start(run)
    wait_for(process, lambda: newest(run) >= step)
    process.send_signal(signal.SIGKILL)
    ended(process)


def terminate(reference: Reference, run: Path, rng: random.Random) -> Hit:
    """Ask a training to end, and give it ``GRACE_SECONDS``: it must save and say how to go on."""
    step, process = reference.draw(rng, spare=5), reference.training.start(run)
    wait_for(process, lambda: newest(run) >= step)
    process.send_signal(signal.SIGTERM)
    asked, before = time.monotonic(), newest(run)
    try:
        end = ended(process, GRACE_SECONDS)
    except LostError as error:
        end = Ended(-signal.SIGKILL, "", str(error))
    took, problems = time.monotonic() - asked, []
    if end.code != 128 + signal.SIGTERM or "--resume" not in end.out or end.error:
        problems.append(f"exit code {end.code}, {end.error!r}, no line that says how to go on")
    if newest(run) <= before:
        problems.append("nothing was saved")
    what = f"after the checkpoint of step {step}; saved and left in {took:.2f} s"
    return Hit(what, newest(run), tuple(problems))


def cut_power(reference: Reference, run: Path, rng: random.Random) -> Hit:
    """Cut the power after a checkpoint; see ``bugs.power_cut``."""
    step = reference.draw(rng)
    end = ended(reference.training.start(run, fault=f"power-cut={step}"))
    problems = () if end.code == -signal.SIGKILL else (f"no power cut: {end}",)
    return Hit(f"after the checkpoint of step {step}", newest(run), problems)


def nan_batch(reference: Reference, run: Path, rng: random.Random) -> Hit:
    """Train until a batch is NaN: training must stop there and keep what it had."""
    step = reference.draw(rng) + rng.randrange(CHECKPOINT_EVERY)
    end = ended(reference.training.start(run, fault=f"nan-batch={step}"))
    problems = refused(end, f"the loss of step {step + 1}")
    if not 0 < newest(run) <= step:
        problems += (f"the newest checkpoint is of step {newest(run)}",)
    return Hit(f"batch {step}", newest(run), problems)


def lose_a_host(reference: Reference, run: Path, rng: random.Random) -> Hit:
    """Kill the second of two hosts: the first must end by itself, with a line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = ["--coordinator", address, "--num-processes", "2", "--process-id"]
    first, second = (reference.training.start(run, *hosts, host) for host in "01")
    try:
        step = reference.draw(rng, spare=5)
        wait_for(first, lambda: newest(run) >= step)
    finally:
        second.send_signal(signal.SIGKILL)
        ended(second)
    began, end = time.monotonic(), ended(first, LOST_HOST_SECONDS)
    problems: tuple[str, ...] = ()
    if end.code == 0 or "lost touch" not in end.error:
        problems = (f"exit code {end.code}, no line that says so: {end.error[-300:]!r}",)
    what = f"the second of two hosts killed; the first ended in {time.monotonic() - began:.0f} s"
    return Hit(what, newest(run), problems)


# Bytes that change while no run is looking.


def _largest(folder: Path) -> Path:
    files = (path for path in folder.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def flip_bytes(last: Path, before: Path, rng: random.Random) -> str:
    """Change a byte in every hundred of the largest file: some are of no use to anybody."""
    path = _largest(last)
    content = bytearray(path.read_bytes())
    places = rng.sample(range(len(content)), -(-len(content) // 100))
    for place in places:
        content[place] ^= rng.randrange(1, 256)
    path.write_bytes(content)
    return f"{len(places)} bytes of its largest file flipped"


def cut_short(last: Path, before: Path, rng: random.Random) -> str:
    path = _largest(last)
    content = path.read_bytes()
    left = rng.randrange(len(content) // 2)
    path.write_bytes(content[:left])
    return f"{len(content) - left} of {len(content)} bytes of its largest file missing"


def remove(last: Path, before: Path, rng: random.Random) -> str:
    _largest(last).unlink()
    return "its largest file deleted"


def swap_arrays(last: Path, before: Path, rng: random.Random) -> str:
    """Put another checkpoint's arrays there: their format finds nothing wrong with them."""
    shutil.rmtree(last / "state")
    shutil.copytree(before / "state", last / "state")
    return f"its arrays are those of step {before.name}"


def damage_newest(
    reference: Reference, run: Path, rng: random.Random, *, harm: Callable[..., str]
) -> Hit:
    """Kill a run after its best validation and harm its newest checkpoint."""
    later = [step for step in reference.steps if step > reference.best]
    kill_after(reference.training, run, rng.choice(later[1:-1]))
    *_, before, last = whole_steps(run)
    what = harm(run / f"checkpoints/{last}", run / f"checkpoints/{before}", rng)
    return Hit(f"step {last}: {what}", before)


def move_folder(reference: Reference, run: Path, rng: random.Random) -> Hit:
    kill_after(reference.training, run, reference.draw(rng))
    moved = run.with_name(f"{run.name}-moved") / "elsewhere"
    moved.parent.mkdir()
    run.rename(moved)
    return Hit("killed, then moved to another folder", newest(moved), run=moved)


def change_data(reference: Reference, run: Path, rng: random.Random) -> Hit:
    """Kill a run, change one item of its data: it must refuse to go on. The data are restored."""
    own = run.with_name(f"{run.name}-data") / reference.training.data.name
    own.parent.mkdir()
    shutil.copy(reference.training.data, own)
    training = dataclasses.replace(reference.training, data=own)
    kill_after(training, run, reference.draw(rng))
    content, before = own.read_text(), newest(run)
    own.write_text(content.replace("\ti1\t", "\ti2\t", 1))
    problems = refused(training.to_the_end(run), "sha256", str(run))
    own.write_text(content)
    if newest(run) != before:
        problems += ("it trained on other data",)
    return Hit("one item of the data file changed; refused", before, problems, training=training)


# A disk that is full: a small one of our own, or a limit on how large files may become.


class SmallDisk(NamedTuple):
    """A disk that only the process ``holder``, and what is started by ``prefix``, see mounted."""

    prefix: list[str]
    seen_from_here: Path

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
    """Mount 16 MiB in a namespace, which needs no privileges; ``None`` where it is refused."""
    folder.mkdir(exist_ok=True)
    mount = 'mount -t tmpfs -o size=16m none "$0" && echo mounted && cat'
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        holder = subprocess.Popen(unshare, text=True, **pipes)
    except OSError:
        yield None
        return
    with holder:  # leaving closes its input, which ends it, and the disk with it
        enter = ["nsenter", "--target", str(holder.pid), "--user", "--mount"]
        disk = SmallDisk(
            [*enter, "--preserve-credentials", "--"], Path(f"/proc/{holder.pid}/root{folder}")
        )
        yield disk if holder.stdout.readline() == "mounted\n" else None


def full_disk(
    reference: Reference, run: Path, rng: random.Random, *, moment: str, spare: int = 0
) -> Hit:
    """Train until a write fails; the disk fills at a moment, but for ``spare`` bytes."""
    fixed = {"from the start": 0, "after the last step": reference.last}
    step = fixed[moment] if moment in fixed else reference.draw(rng)
    folder = run.with_name(f"{run.name}-disk")
    with small_disk(folder) as disk:
        if disk is None:
            return _no_more_bytes(reference.training, run, step)
        process = reference.training.start(folder / run.name, prefix=disk.prefix)
        seen = disk.seen_from_here / run.name
        wait_for(process, lambda: newest(seen) >= step)
        disk.fill(spare)
        problems = refused(ended(process), "No space left on device")
        if seen.exists():
            shutil.copytree(seen, run)
        problems += tuple(left_behind(seen))
    return Hit(f"tmpfs without space (ENOSPC) {moment}, step {step}", newest(run), problems)


def evaluate_on_a_full_disk(reference: Reference, run: Path, rng: random.Random) -> Hit:
    """Evaluate a finished run again where no file can be written: all must stay as they were."""
    shutil.copytree(reference.run, run)
    before = {path: path.read_bytes() for path in files_of(run)}
    hit = _no_more_bytes(reference.training, run, 0)
    after = {path: path.read_bytes() for path in files_of(run)}
    changed = [path.name for path in sorted(before) if after.get(path) != before[path]]
    problems = (f"{', '.join(changed)} are not as they were",) if changed else ()
    return hit._replace(problems=hit.problems + problems)


def _no_more_bytes(training: Training, run: Path, step: int) -> Hit:
    """Forbid a run to write files of more than a few bytes."""
    process = training.start(run)
    wait_for(process, lambda: newest(run) >= step)
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FILE_BYTES, hard))
    problems = refused(ended(process), "File too large") + tuple(left_behind(run))
    what = f"no file may have more than {FILE_BYTES} bytes (EFBIG), step {step}"
    return Hit(what, newest(run), problems)


class Trial(NamedTuple):
    """A fault that is to strike a run of some seeds; on other devices its end may be rounded."""

    name: str
    fault: Fault
    seeds: int = 1
    other_devices: bool = False


KILLS = (
    Trial("SIGKILL in a checkpoint write", partial(kill, moment="write")),
    Trial("SIGKILL in training", partial(kill, moment="checkpoint")),
    Trial("SIGKILL at any time", partial(kill, moment="start")),
    Trial("SIGKILL of two seeds at once", partial(kill, moment="checkpoint"), seeds=2),
)
# None of the bugs survives these.
QUICK = (
    KILLS[0],
    Trial("checkpoint with another's arrays", partial(damage_newest, harm=swap_arrays)),
    Trial("power cut", cut_power),
    Trial("full disk, evaluated again", evaluate_on_a_full_disk),
)
_PART = 50_000  # bytes that hold some files of a checkpoint, not all


def all_trials(kills: int) -> list[Trial]:
    """Return every fault; ``kills`` says how many SIGKILLs."""
    return [
        *(KILLS[i % len(KILLS)] for i in range(kills)),
        *[Trial("SIGTERM with 10 s of grace", terminate)] * 3,
        Trial("full disk", partial(full_disk, moment="from the start")),
        Trial("full disk", partial(full_disk, moment="after a checkpoint")),
        Trial("full disk", partial(full_disk, moment="after a checkpoint", spare=_PART)),
        Trial("full disk", partial(full_disk, moment="after the last step")),
        *QUICK[1:],
        Trial("power cut", cut_power),
        Trial("checkpoint with flipped bytes", partial(damage_newest, harm=flip_bytes)),
        Trial("checkpoint with missing bytes", partial(damage_newest, harm=cut_short)),
        Trial("checkpoint with a missing file", partial(damage_newest, harm=remove)),
        *[Trial("NaN batch", nan_batch)] * 2,
        Trial("run folder moved", move_folder),
        Trial("data changed", change_data),
        Trial("host lost", lose_a_host, other_devices=True),
    ]
