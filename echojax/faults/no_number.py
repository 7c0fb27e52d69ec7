"""A batch whose loss is NaN, in the middle of a run."""

import random
import sys
from pathlib import Path

from echojax.faults.hit import Hit, refused
from echojax.faults.run_state import newest
from echojax.faults.tiny_run import CHECKPOINT_EVERY, TinyRun, ended


def nan_batch(tiny: TinyRun, run: Path, *, rng: random.Random) -> Hit:
    """Train until a batch is NaN: it must stop there and keep what it had."""
    before = newest(run)
    step = before + rng.randrange(CHECKPOINT_EVERY, 4 * CHECKPOINT_EVERY)
    command = (sys.executable, "-m", "echojax.faults.nan_batch", str(step), *tiny.command[1:])
    end = ended(tiny.start(run, command=command))
    problems = refused(end, f"the loss of step {step + 1}")
    if not before < newest(run) <= step:
        problems += (f"the newest checkpoint is of step {newest(run)}",)
    return Hit(f"batch {step}", newest(run), end, problems)
