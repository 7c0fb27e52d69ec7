"""Which faults are tried."""

import random
from functools import partial

from echojax.faults.attempt import Trial
from echojax.faults.damage import change_data, cut_short, damage_newest, flip_bytes, move_folder
from echojax.faults.damage import remove as remove_file
from echojax.faults.full_disk import Moment, full_disk
from echojax.faults.hit import Fault
from echojax.faults.lost_host import lose_a_host
from echojax.faults.no_number import nan_batch
from echojax.faults.signals import (
    Moments,
    kill_anywhere,
    kill_in_a_write,
    kill_in_training,
    terminate,
)

# Two devices add up gradients in another order.
TOLERANCE_OTHER_DEVICES = 1e-4
_KILLS = {
    "SIGKILL in a checkpoint write": kill_in_a_write,
    "SIGKILL in training": kill_in_training,
    "SIGKILL at any time": kill_anywhere,
}
_PART = 50_000  # bytes that hold some files of a checkpoint, not all
_FULL: tuple[tuple[Moment, int], ...] = (
    ("from the start", 0),
    ("after a checkpoint", 0),
    ("after a checkpoint", _PART),
    ("after the last step", 0),
)
_HARMS = {"flipped bytes": flip_bytes, "missing bytes": cut_short, "a missing file": remove_file}


def all_trials(kills: int, moments: Moments, last: int, rng: random.Random) -> list[Trial]:
    """Return the long drill: every fault strikes a run of its own.

    Args:
        kills: how many SIGKILLs.
        moments: of the undisturbed run.
        last: its last step.
        rng: chooses when and where.
    """
    kinds = list(_KILLS.items())
    trials = [
        Trial([(name, partial(kill, moments=moments, rng=rng))])
        for name, kill in (kinds[i % len(kinds)] for i in range(kills))
    ]
    ask = partial(terminate, moments=moments, rng=rng)
    trials += [Trial([("SIGTERM with 10 s of grace", ask)])] * 3
    trials += [
        Trial([("full disk", partial(full_disk, moment=moment, last=last, spare=spare))])
        for moment, spare in _FULL
    ]
    trials += [
        Trial([(f"checkpoint with {name}", partial(damage_newest, harm=harm, rng=rng))])
        for name, harm in _HARMS.items()
    ]
    trials += [Trial([("run folder moved", move_folder)]), Trial([("data changed", change_data)])]
    trials += [Trial([("NaN batch", partial(nan_batch, rng=rng))])] * 3
    return [*trials, Trial([("host lost", lose_a_host)], TOLERANCE_OTHER_DEVICES)]


def quick_trials(moments: Moments, last: int, rng: random.Random) -> list[Trial]:
    """Return the short drill: one run is struck again and again. Arguments as ``all_trials``."""
    early = Moments(moments.first, moments.last, moments.end, writes=3)
    faults: list[tuple[str, Fault]] = [
        ("SIGKILL in a checkpoint write", partial(kill_in_a_write, moments=early, rng=rng)),
        ("checkpoint with flipped bytes", partial(damage_newest, harm=flip_bytes, rng=rng)),
        ("NaN batch", partial(nan_batch, rng=rng)),
        ("full disk", partial(full_disk, moment="after a checkpoint", last=last, spare=_PART)),
    ]
    return [Trial(faults)]
