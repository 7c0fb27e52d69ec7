"""A fault strikes a run, the run is resumed to its end, and everything is compared."""

import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

from echojax.errors import UserError
from echojax.faults.end import differences, far_losses, misjudged, read_ends
from echojax.faults.hit import Hit
from echojax.faults.run_folder import broken_files, newest
from echojax.faults.tiny_run import Ended, LostError
from echojax.faults.trials import Trial
from echojax.faults.undisturbed import Undisturbed

# Losses before a host is lost: two devices add up gradients in another order.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Outcome:
    """A fault and what came of it.

    Attributes:
        fault: its kind.
        what: where it struck.
        newest: step of the newest checkpoint that it left whole.
        after_best: whether it struck after the best validation.
        resumed_from: step that the next start went on from.
        problems: what went wrong; none where the run ended as if nothing had happened.
        seconds: of all starts.
    """

    fault: str
    what: str
    newest: int
    after_best: bool
    resumed_from: int
    problems: tuple[str, ...]
    seconds: float


def nothing_happens(undisturbed: Undisturbed) -> Outcome:
    """Return what came of the undisturbed run: it can be wrong by itself."""
    problems = [problem for end in undisturbed.ends for problem in misjudged(end)]
    problems += broken_files(undisturbed.run)
    seeds = len(undisturbed.ends)
    what = f"{seeds} seed{'s' if seeds > 1 else ''}, best at step {undisturbed.best}"
    return Outcome("none", what, 0, False, 0, tuple(problems), undisturbed.seconds)


def attempt(trial: Trial, run: Path, undisturbed: Undisturbed, rng: random.Random) -> Outcome:
    """Let a fault strike a run, resume it to its end and compare it with the undisturbed one.

    Args:
        trial: the fault.
        run: the run folder, new.
        undisturbed: what it must end like.
        rng: chooses when and where.
    """
    began, end = time.monotonic(), Ended(0, "", "")
    problems: list[str] = []
    try:
        hit = trial.fault(undisturbed.tiny, run, undisturbed=undisturbed, rng=rng)
        run = hit.run or run
        problems += [*hit.problems, *broken_files(run)]
        damaged = newest(run) > hit.newest
        end = (hit.tiny or undisturbed.tiny).to_the_end(run)
        problems += _after(trial, hit, run, end, undisturbed, damaged=damaged)
    except LostError as error:
        hit = Hit("did not strike, or did not end", 0)
        problems.append(str(error))
    return Outcome(
        fault=trial.name,
        what=hit.what,
        newest=hit.newest,
        after_best=hit.newest >= undisturbed.best,
        resumed_from=_resumed_from(end.out),
        problems=tuple(dict.fromkeys(problems)),
        seconds=time.monotonic() - began,
    )


def _after(
    trial: Trial, hit: Hit, run: Path, end: Ended, undisturbed: Undisturbed, *, damaged: bool
) -> list[str]:
    """Return what is wrong with a run that was resumed to its end."""
    if end.code:
        return [f"resumed: exit code {end.code}, {end.error[-300:]!r}"]
    problems, resumed = [], _resumed_from(end.out)
    if resumed != hit.newest:
        problems.append(f"resumed from step {resumed}: step {hit.newest} was whole")
    if damaged != ("is damaged" in end.out):
        problems.append("damage was not said" if damaged else "called damaged, and is not")
    try:
        ends = read_ends(run)
    except (UserError, IndexError, OSError, ValueError) as error:
        return [*problems, f"the end cannot be read: {error}"]
    for ours, theirs in zip(ends, undisturbed.ends, strict=True):
        problems += misjudged(ours)
        if trial.other_devices:
            problems += far_losses(ours, theirs, hit.newest, _ROUNDING)
        else:
            problems += differences(ours, theirs)
    return problems


def _resumed_from(said: str) -> int:
    """Return the step that a start has said it goes on from; 0 where it starts anew."""
    found = re.findall(r"^(?:seed \d+ )?resumed from step (\d+)$", said, re.MULTILINE)
    return min(map(int, found), default=0)
