"""Faults strike a run, it is resumed to its end and judged."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from echojax.faults.hit import Fault, Hit
from echojax.faults.outcome import Outcome, difference, judge
from echojax.faults.run_state import End, checksums, newest, read_end
from echojax.faults.tiny_run import Ended, LostError, TinyRun


@dataclass(frozen=True)
class Trial:
    """Faults that strike one run, one after the other, each a resumed start.

    Args:
        faults: by kind.
        tolerance: the largest difference of the final state from the undisturbed one's.
    """

    faults: Sequence[tuple[str, Fault]]
    tolerance: float = 0.0


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
