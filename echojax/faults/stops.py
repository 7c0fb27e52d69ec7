"""Processes that end before they are done: signals, a power cut, a batch that is not a number."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from echojax.faults.hit import Hit, refused
from echojax.faults.run_folder import being_written, newest
from echojax.faults.tiny_run import CHECKPOINT_EVERY, Ended, LostError, TinyRun, ended, wait_for
from echojax.faults.undisturbed import Undisturbed

GRACE_SECONDS = 10.0


def kill_in_a_write(
    tiny: TinyRun, run: Path, *, undisturbed: Undisturbed, rng: random.Random
) -> Hit:
    """Kill within a few milliseconds of the temporary name of a checkpoint."""
    step, after = undisturbed.draw(rng), rng.uniform(0, 0.06)

    def began() -> bool:
        return newest(run) > step or (newest(run) == step and bool(being_written(run)))

    return _kill(tiny, run, began, after, f"{1000 * after:.0f} ms into the write after step {step}")


def kill_in_training(
    tiny: TinyRun, run: Path, *, undisturbed: Undisturbed, rng: random.Random
) -> Hit:
    """Kill soon after a checkpoint."""
    step, after = undisturbed.draw(rng), rng.uniform(0, 0.1)
    when = f"{1000 * after:.0f} ms after the checkpoint of step {step}"
    return _kill(tiny, run, lambda: newest(run) >= step, after, when)


def kill_anywhere(tiny: TinyRun, run: Path, *, undisturbed: Undisturbed, rng: random.Random) -> Hit:
    """Kill between the start and the last line of the report."""
    after = rng.uniform(0, undisturbed.seconds)
    return _kill(tiny, run, lambda: True, after, f"{after:.2f} s after the start")


def kill_after(tiny: TinyRun, run: Path, step: int) -> Ended:
    """Kill once a checkpoint is written."""
    process = tiny.start(run)
    wait_for(process, lambda: newest(run) >= step)
    process.send_signal(signal.SIGKILL)
    return ended(process)


def terminate(tiny: TinyRun, run: Path, *, undisturbed: Undisturbed, rng: random.Random) -> Hit:
    """Ask a run in training to end, and give it ``GRACE_SECONDS``."""
    step, process = undisturbed.draw(rng, spare=5), tiny.start(run)
    wait_for(process, lambda: newest(run) >= step)
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
    what = f"after the checkpoint of step {step}; saved and left in {took:.2f} s"
    return Hit(what, newest(run), tuple(problems))


def cut_power(tiny: TinyRun, run: Path, *, undisturbed: Undisturbed, rng: random.Random) -> Hit:
    """Cut the power of a run after a checkpoint; see ``patches.power_cut``."""
    step = undisturbed.draw(rng)
    end = ended(tiny.start(run, patches=[f"power-cut={step}"]))
    problems = () if end.code == -signal.SIGKILL else (f"no power cut: {end}",)
    return Hit(f"after the checkpoint of step {step}", newest(run), problems)


def nan_batch(tiny: TinyRun, run: Path, *, undisturbed: Undisturbed, rng: random.Random) -> Hit:
    """Train until a batch is NaN: it must stop there and keep what it had."""
    step = undisturbed.draw(rng) + rng.randrange(CHECKPOINT_EVERY)
    end = ended(tiny.start(run, patches=[f"nan-batch={step}"]))
    problems = refused(end, f"the loss of step {step + 1}")
    if not 0 < newest(run) <= step:
        problems += (f"the newest checkpoint is of step {newest(run)}",)
    return Hit(f"batch {step}", newest(run), problems)


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
    return Hit(what, newest(run))
