"""Which faults are tried, each on a run of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from echojax.faults.damage import (
    change_data,
    cut_short,
    damage_newest,
    flip_bytes,
    move_folder,
    remove,
    swap_arrays,
)
from echojax.faults.full_disk import full_disk, judge_on_a_full_disk
from echojax.faults.hit import Hit
from echojax.faults.lost_host import lose_a_host
from echojax.faults.stops import (
    cut_power,
    kill_anywhere,
    kill_in_a_write,
    kill_in_training,
    nan_batch,
    terminate,
)


@dataclass(frozen=True)
class Trial:
    """A fault that is to strike a run.

    Args:
        name: its kind.
        fault: called with the training, a run folder, ``undisturbed`` and ``rng``.
        seeds: trained at once.
        other_devices: the end may differ by rounding.
    """

    name: str
    fault: Callable[..., Hit]
    seeds: int = 1
    other_devices: bool = False


_KILLS = (
    Trial("SIGKILL in a checkpoint write", kill_in_a_write),
    Trial("SIGKILL in training", kill_in_training),
    Trial("SIGKILL at any time", kill_anywhere),
    Trial("SIGKILL of two seeds at once", kill_in_training, seeds=2),
)
_SWAPPED = Trial("checkpoint with another's arrays", partial(damage_newest, harm=swap_arrays))
_NAN = Trial("NaN batch", nan_batch)
_POWER = Trial("power cut", cut_power)
_JUDGED_AGAIN = Trial("full disk, judged again", judge_on_a_full_disk)
_PART = 50_000  # bytes that hold some files of a checkpoint, not all

QUICK = (_KILLS[0], _SWAPPED, _POWER, _JUDGED_AGAIN)


def all_trials(kills: int) -> list[Trial]:
    """Return the long drill; ``kills`` says how many SIGKILLs."""
    return [
        *(_KILLS[i % len(_KILLS)] for i in range(kills)),
        *[Trial("SIGTERM with 10 s of grace", terminate)] * 3,
        Trial("full disk", partial(full_disk, moment="from the start")),
        Trial("full disk", partial(full_disk, moment="after a checkpoint")),
        Trial("full disk", partial(full_disk, moment="after a checkpoint", spare=_PART)),
        Trial("full disk", partial(full_disk, moment="after the last step")),
        _JUDGED_AGAIN,
        Trial("checkpoint with flipped bytes", partial(damage_newest, harm=flip_bytes)),
        Trial("checkpoint with missing bytes", partial(damage_newest, harm=cut_short)),
        Trial("checkpoint with a missing file", partial(damage_newest, harm=remove)),
        _SWAPPED,
        *[_POWER] * 2,
        *[_NAN] * 2,
        Trial("run folder moved", move_folder),
        Trial("data changed", change_data),
        Trial("host lost", lose_a_host, other_devices=True),
    ]
