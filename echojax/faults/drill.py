"""The drill: undisturbed runs, then every fault, a report and a table; and its own test."""

import dataclasses
import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import jax
from rich.console import Console
from rich.table import Table

from echojax.faults.outcome import Outcome, attempt, nothing_happens
from echojax.faults.report import line, report, said, table
from echojax.faults.tiny_run import TinyRun, write_data
from echojax.faults.trials import QUICK, Trial, all_trials
from echojax.faults.undisturbed import Undisturbed, train_undisturbed
from echojax.files import write_json
from echojax.machine import cores

Bug = Literal["no-checksum", "no-fsync", "in-place", "best-not-first", "best-collected"]


@dataclass(frozen=True)
class Flags:
    """Disturb a small training in every way that clusters know, resume it and compare the ends."""

    out: Path = Path("runs/fault-drill")
    """Folder for fault-drill.json."""
    kills: int = 30
    """How many SIGKILLs, a quarter of them during a checkpoint write."""
    seed: int = 0
    """Chooses moments and bytes."""
    quick: bool = False
    """Four faults, those that none of the bugs to inject survives."""
    inject: Bug | None = None
    """Put this bug into every training: the drill must fail."""
    self_test: bool = False
    """The quick drill without a bug, which must pass, and with each one, which must fail."""


def drill(flags: Flags, command: tuple[str, ...], console: Console) -> bool:
    """Run the drill; return whether all went well.

    Args:
        flags: what the user asks for.
        command: what starts training.
        console: where to print.

    Raises:
        UserError: the undisturbed run fails or is not fit, or the report cannot be written.
    """
    jax.config.update("jax_platforms", "cpu")
    flags.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fault-drill-") as name:
        folder = Path(name)
        tiny = TinyRun(command, folder / "ring.inter", folder / "cache")
        write_data(tiny.data)
        if flags.self_test:
            return _self_test(tiny, flags.seed, console)
        trials = QUICK if flags.quick else all_trials(flags.kills)
        tiny = dataclasses.replace(tiny, patches=(flags.inject,) if flags.inject else ())
        if not flags.quick:  # some moments are seconds of a start that compiles nothing
            tiny.to_the_end(folder / "warm-up")
        outcomes, facts = _outcomes(tiny, trials, folder / "runs", flags.seed, console)
    path = flags.out / "fault-drill.json"
    write_json(path, report(_command(flags), outcomes, facts))
    console.print(table(outcomes))
    console.print(line(outcomes), f"report: {path}", sep="\n", highlight=False, soft_wrap=True)
    return not any(one.problems for one in outcomes)


def _outcomes(
    tiny: TinyRun, trials: Sequence[Trial], folder: Path, seed: int, console: Console
) -> tuple[list[Outcome], list[dict[str, int]]]:
    """Return what came of each fault, and facts of the undisturbed runs; two trials at a time."""
    folder.mkdir()
    undisturbed: dict[int, Undisturbed] = {}
    outcomes, facts = list[Outcome](), list[dict[str, int]]()
    for seeds in sorted({trial.seeds for trial in trials}):
        ours = dataclasses.replace(tiny, seeds=seeds)
        found = train_undisturbed(ours, folder / f"undisturbed-{seeds}")
        undisturbed[seeds] = found
        outcomes.append(nothing_happens(found))
        console.print(said(outcomes[-1]), highlight=False, soft_wrap=True, markup=False)
        facts.append({"seeds": seeds, "steps": found.last, "best_step": found.best})

    def one(number: int) -> Outcome:
        trial, rng = trials[number], random.Random(f"{seed} {number}")
        return attempt(trial, folder / f"run-{number}", undisturbed[trial.seeds], rng)

    with ThreadPoolExecutor(min(2, cores())) as pool:
        for outcome in pool.map(one, range(len(trials))):
            outcomes.append(outcome)
            console.print(said(outcome), highlight=False, soft_wrap=True, markup=False)
    return outcomes, facts


def _self_test(tiny: TinyRun, seed: int, console: Console) -> bool:
    """Say whether the quick drill passes as it is and fails with each bug."""
    well, results = True, Table("bug", "faults that failed", "")
    for bug in (None, *get_args(Bug)):
        console.rule(f"{bug or 'no bug'}")
        ours = dataclasses.replace(tiny, patches=(bug,) if bug else ())
        folder = tiny.data.with_name(f"runs-{bug}")
        outcomes, _ = _outcomes(ours, QUICK, folder, seed, console)
        failed = [one.fault for one in outcomes if one.problems]
        right = bool(failed) == (bug is not None)
        well &= right
        results.add_row(bug or "none", ", ".join(failed), "as it should be" if right else "WRONG")
    console.print(results)
    return well


def _command(flags: Flags) -> list[str]:
    kind = ["--quick"] if flags.quick else ["--kills", str(flags.kills)]
    bug = ["--inject", flags.inject] if flags.inject else []
    return ["python", "experiments/fault_drill.py", *kind, "--seed", str(flags.seed), *bug]
