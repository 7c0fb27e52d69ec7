"""Disturb training in every way that clusters know, and resume: python -m tests.fault_injection.

After each fault the run is resumed to its end and compared with one that nothing disturbed.
"""

import dataclasses
import random
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from echojax.command_line import Terminal, parse
from echojax.errors import UserError, exit_on_user_error
from echojax.files import write_json
from echojax.machine import cores, processor, versions
from echojax.training.results import PACKAGES
from tests.fault_injection.bugs import BUGS
from tests.fault_injection.faults import QUICK, Hit, Trial, all_trials
from tests.fault_injection.reference import (
    Reference,
    contradictions,
    differences,
    far_losses,
    read_ends,
    train_reference,
)
from tests.fault_injection.training import LostError, Training, broken_files, newest, write_data

# Losses before a host is lost: two devices add up gradients in another order.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Flags:
    """Disturb a small training in every way that clusters know, resume it and compare the ends."""

    out: Path = Path("benchmarks/results")
    """Folder for fault-drill.json."""
    kills: int = 24
    """How many SIGKILLs, a quarter of them during a checkpoint write; 19 other faults follow."""
    seed: int = 0
    """Chooses moments and bytes."""
    self_test: bool = False
    """Four faults without a bug, which must pass, and with each of five bugs, which must fail."""


@dataclass(frozen=True)
class Outcome:
    """A fault and what came of it; no problems where the run ended as if nothing had happened."""

    fault: str
    what: str
    newest: int
    after_best: bool
    resumed_from: int
    problems: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        verdict = "FAILED" if self.problems else "passed"
        problems = "".join(f"\n  {problem}" for problem in self.problems)
        resumed = "" if self.fault == "none" else f"; resumed from step {self.resumed_from}"
        return f"{self.fault}: {self.what}{resumed}; {verdict} ({self.seconds:.1f} s){problems}"


def without_a_fault(reference: Reference) -> Outcome:
    """Return what came of the undisturbed run: it can be wrong by itself."""
    problems = [problem for end in reference.ends for problem in contradictions(end)]
    problems += broken_files(reference.run)
    what = f"seeds: {len(reference.ends)}, best at step {reference.best}"
    return Outcome("none", what, 0, False, 0, tuple(problems), reference.seconds)


def attempt(trial: Trial, run: Path, reference: Reference, rng: random.Random) -> Outcome:
    """Let a fault strike a run, resume it to its end and compare it with the undisturbed one."""
    began, resumed = time.monotonic(), 0
    try:
        hit = trial.fault(reference, run, rng)
        run = hit.run or run
        problems = [*hit.problems, *broken_files(run)]
        damaged = newest(run) > hit.newest
        end = (hit.training or reference.training).to_the_end(run)
        found = re.findall(r"^(?:seed \d+ )?resumed from step (\d+)$", end.out, re.MULTILINE)
        resumed = min(map(int, found), default=0)
        if end.code:
            problems.append(f"resumed: exit code {end.code}, {end.error[-300:]!r}")
        else:
            if resumed != hit.newest:
                problems.append(f"resumed from step {resumed}: step {hit.newest} was whole")
            if damaged != ("is damaged" in end.out):
                problems.append("damage was not said" if damaged else "called damaged, and is not")
            problems += _end_problems(trial, hit, run, reference)
    except LostError as error:
        hit, problems = Hit("did not strike, or did not end", 0), [str(error)]
    return Outcome(
        fault=trial.name,
        what=hit.what,
        newest=hit.newest,
        after_best=hit.newest >= reference.best,
        resumed_from=resumed,
        problems=tuple(dict.fromkeys(problems)),
        seconds=time.monotonic() - began,
    )


def _end_problems(trial: Trial, hit: Hit, run: Path, reference: Reference) -> list[str]:
    try:
        ends = read_ends(run)
    except (UserError, IndexError, OSError, ValueError) as error:
        return [f"the end cannot be read: {error}"]
    problems = []
    for ours, theirs in zip(ends, reference.ends, strict=True):
        problems += contradictions(ours)
        if trial.other_devices:
            problems += far_losses(ours, theirs, hit.newest, ROUNDING)
        else:
            problems += differences(ours, theirs)
    return problems


def inject(flags: Flags, console: Console) -> bool:
    """Try all faults and write a report, or test the faults by bugs; return whether all is well."""
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory(prefix="fault-injection-") as name:
        folder = Path(name)
        training = Training(folder / "ring.inter", folder / "cache")
        write_data(training.data)
        if flags.self_test:
            return _self_test(training, flags.seed, console)
        training.to_the_end(folder / "warm-up")  # some moments are seconds of a start without it
        trials = all_trials(flags.kills)
        outcomes, references = _outcomes(training, trials, folder / "runs", flags.seed, console)
    faults = [one for one in outcomes if one.fault != "none"]
    summary = {
        "faults": len(faults),
        "after_best": sum(one.after_best for one in faults),
        "failed": sum(bool(one.problems) for one in outcomes),
    }
    report = {
        "command": f"python -m tests.fault_injection --kills {flags.kills} --seed {flags.seed}",
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": cores()},
        "versions": versions(PACKAGES),
        "undisturbed": [
            {"seeds": seeds, "steps": one.last, "best_step": one.best}
            for seeds, one in references.items()
        ],
        "summary": summary,
        "faults": [
            dataclasses.asdict(one) | {"seconds": round(one.seconds, 2), "passed": not one.problems}
            for one in outcomes
        ],
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    write_json(flags.out / "fault-drill.json", report)
    console.print(
        "{faults} faults, {after_best} of them after the best step, {failed} failed".format(
            **summary
        )
    )
    console.print(f"report: {flags.out / 'fault-drill.json'}", soft_wrap=True)
    return not summary["failed"]


def _outcomes(
    training: Training, trials: Sequence[Trial], folder: Path, seed: int, console: Console
) -> tuple[list[Outcome], dict[int, Reference]]:
    """Return what came of each fault, two at a time, and the undisturbed runs by their seeds."""
    folder.mkdir()
    references = {
        seeds: train_reference(
            dataclasses.replace(training, seeds=seeds), folder / f"undisturbed-{seeds}"
        )
        for seeds in sorted({trial.seeds for trial in trials})
    }
    outcomes = [without_a_fault(reference) for reference in references.values()]
    for outcome in outcomes:
        console.print(str(outcome), soft_wrap=True)

    def one(number: int) -> Outcome:
        trial, rng = trials[number], random.Random(f"{seed} {number}")
        return attempt(trial, folder / f"run-{number}", references[trial.seeds], rng)

    with ThreadPoolExecutor(min(2, cores())) as pool:
        for outcome in pool.map(one, range(len(trials))):
            outcomes.append(outcome)
            console.print(str(outcome), soft_wrap=True)
    return outcomes, references


def _self_test(training: Training, seed: int, console: Console) -> bool:
    """Return whether the quick faults pass as training is, and one fails with each bug."""
    well, results = True, Table("bug", "faults that failed", "")
    for bug in (None, *BUGS):
        console.rule(bug or "no bug")
        ours = dataclasses.replace(training, bugs=(bug,) if bug else ())
        outcomes, _ = _outcomes(ours, QUICK, training.data.with_name(f"runs-{bug}"), seed, console)
        failed = [one.fault for one in outcomes if one.problems]
        right = bool(failed) == (bug is not None)
        well &= right
        results.add_row(bug or "none", ", ".join(failed), "as it should be" if right else "WRONG")
    console.print(results)
    return well


def main() -> None:
    with exit_on_user_error():
        if not inject(parse(Flags, args=sys.argv[1:]), Terminal(highlight=False)):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
