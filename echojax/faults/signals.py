"""Processes ended by a signal, at moments taken from the undisturbed run."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from echojax.faults.hit import Hit
from echojax.faults.run_state import being_written, checksums, newest
from echojax.faults.tiny_run import Ended, LostError, TinyRun, ended, wait_for

GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Moments:
    """Seconds from the start of the undisturbed run.

    Args:
        first: to the first checkpoint's temporary name.
        last: until the last checkpoint was whole.
        end: of everything.
        writes: how many checkpoints were seen being written.
    """

    first: float
    last: float
    end: float
    writes: int


def watch(tiny: TinyRun, run: Path) -> tuple[Ended, Moments, dict[int, str]]:
    """Train undisturbed; return how it ended, when what happened, and checkpoints' checksums."""
    began, process = time.monotonic(), tiny.start(run)
    first = last = 0.0
    seen: set[str] = set()
    known: dict[int, str] = {}
    while process.poll() is None:
        if newest(run) not in known:  # old ones are deleted
            known |= checksums(run)
        names, now = being_written(run), time.monotonic() - began
        if names:
            first, last = first or now, now
        seen |= names
        time.sleep(0.001)
    end = ended(process)
    return end, Moments(first, last, time.monotonic() - began, len(seen)), known


def kill_in_a_write(tiny: TinyRun, run: Path, *, moments: Moments, rng: random.Random) -> Hit:
    """Kill within a few milliseconds of a temporary checkpoint name."""
    wanted, after = rng.randrange(1, max(2, moments.writes)), rng.uniform(0, 0.06)
    seen: set[str] = set()

    def began() -> bool:
        seen.update(being_written(run))
        return len(seen) >= wanted

    return _kill(tiny, run, began, after, f"{1000 * after:.0f} ms into write {wanted}")


def kill_in_training(tiny: TinyRun, run: Path, *, moments: Moments, rng: random.Random) -> Hit:
    """Kill between the first checkpoint and the last."""
    after = rng.uniform(0, moments.last - moments.first)

    def began() -> bool:
        return bool(being_written(run) or newest(run))

    return _kill(tiny, run, began, after, f"{after:.2f} s after the first write began")


def kill_anywhere(tiny: TinyRun, run: Path, *, moments: Moments, rng: random.Random) -> Hit:
    """Kill between the start and the last line of the report."""
    after = rng.uniform(0, moments.end)
    return _kill(tiny, run, lambda: True, after, f"{after:.2f} s after the start")


def terminate(tiny: TinyRun, run: Path, *, moments: Moments, rng: random.Random) -> Hit:
    """Ask a run in training to end, and give it ``GRACE_SECONDS``."""
    after = rng.uniform(0, 0.8 * (moments.last - moments.first))
    process = tiny.start(run)
    wait_for(process, lambda: bool(newest(run)))
    time.sleep(after)
    process.send_signal(signal.SIGTERM)
    asked, before, problems = time.monotonic(), newest(run), []
    try:
        end = ended(process, GRACE_SECONDS)
    except LostError:
        end = Ended(-signal.SIGKILL, "", "")
        problems = [f"still running {GRACE_SECONDS:.0f} s after SIGTERM"]
    took = time.monotonic() - asked
    if end.code != 128 + signal.SIGTERM or "--resume" not in end.out or end.error:
        problems.append(f"exit code {end.code}, {end.error!r}, no line that says how to go on")
    if newest(run) <= before:
        problems.append("nothing was saved")
    what = f"{after:.2f} s after the first checkpoint; saved and left in {took:.2f} s"
    return Hit(what, newest(run), end, tuple(problems))


def _kill(tiny: TinyRun, run: Path, began: Callable[[], bool], after: float, when: str) -> Hit:
    process = tiny.start(run)
    wait_for(process, began)
    # A busy machine may have sped up since the undisturbed run.
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    end = ended(process)
    state = "mid-write" if being_written(run) else "between writes"
    what = f"{when}, {state}" if end.code < 0 else f"{when}: it had ended by itself"
    return Hit(what, newest(run), end)
