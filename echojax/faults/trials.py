"""Which faults are tried, and what each is followed by: a start that goes on to the end."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from echojax.faults.damage import change_data, cut_short, damage_newest, flip_bytes, move_folder
from echojax.faults.damage import remove as remove_file
from echojax.faults.full_disk import Moment, full_disk
from echojax.faults.hit import Fault, Hit
from echojax.faults.lost_host import lose_a_host
from echojax.faults.no_number import nan_batch
from echojax.faults.outcome import Outcome, difference, judge
from echojax.faults.run_state import End, checksums, newest, read_end
from echojax.faults.signals import (
    Moments,
    kill_anywhere,
    kill_in_a_write,
    kill_in_training,
    terminate,
)
from echojax.faults.tiny_run import Ended, LostError, TinyRun

# Two devices add up gradients in another order.
TOLERANCE_OTHER_DEVICES = 1e-4
_KILLS = {
    "SIGKILL in a checkpoint write": kill_in_a_write,
    "SIGKILL in training": kill_in_training,
    "SIGKILL at any time": kill_anywhere,
}
_PART = 150_000  # bytes that hold some files of a checkpoint, not all
_FULL: tuple[tuple[Moment, int], ...] = (
    ("from the start", 0),
    ("after a checkpoint", 0),
    ("after a checkpoint", _PART),
    ("after the last step", 0),
)
_HARMS = {"flipped bytes": flip_bytes, "missing bytes": cut_short, "a missing file": remove_file}


@dataclass(frozen=True)
class Trial:
    """Faults that strike one run, one after the other, each a resumed start.

    Args:
        faults: by kind.
        tolerance: the largest difference of the final state from the undisturbed one's.
    """

    faults: Sequence[tuple[str, Fault]]
    tolerance: float = 0.0


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


def attempt(
    tiny: TinyRun, trial: Trial, run: Path, undisturbed: End, known: dict[int, str]
) -> list[Outcome]:
    """Let a trial's faults strike a run, resume it to its end and judge it.

    Args:
        tiny: the training.
        trial: the faults.
        run: the run folder, new.
        undisturbed: what the end must be.
        known: checksums by step of all runs so far; this one's are added.
    """
    hits: list[Hit] = []
    damaged, clashes, seconds, problems = [], [], [], list[str]()
    for _, fault in trial.faults:
        began = time.monotonic()
        try:
            hits.append(fault(tiny, run))
        except LostError as error:
            hits.append(Hit("did not strike", newest(run), Ended(0, "", ""), (str(error),)))
        seconds.append(time.monotonic() - began)
        run = hits[-1].run or run
        damaged.append(newest(run) > hits[-1].newest)
        clashes.append(not trial.tolerance and _clash(checksums(run), known))
    began, far = time.monotonic(), None
    end = tiny.to_the_end(run)
    if end.code == 0:
        far = difference(read_end(run), undisturbed)
    else:
        problems.append(f"resumed: exit code {end.code}, {end.error[-300:]!r}")
    seconds[-1] += time.monotonic() - began
    clashes[-1] |= not trial.tolerance and _clash(checksums(run), known)
    said = [hit.ended.out for hit in hits[1:]] + [end.out]
    return [
        judge(
            name, hits[i], damaged=damaged[i], said=said[i], far=far, tolerance=trial.tolerance,
            clash=clashes[i], problems=tuple(problems), seconds=seconds[i],
        )
        for i, (name, _) in enumerate(trial.faults)
    ]  # fmt: skip


def _clash(found: dict[int, str], known: dict[int, str]) -> bool:
    """Take in checksums; return whether one differs from what is known of its step."""
    return any(known.setdefault(step, checksum) != checksum for step, checksum in found.items())
