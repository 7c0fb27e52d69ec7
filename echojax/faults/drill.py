"""The drill: an undisturbed run, then every fault, a report and a table."""

import dataclasses
import random
import shlex
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from echojax.errors import UserError
from echojax.faults.outcome import Outcome
from echojax.faults.run_state import newest, read_end
from echojax.faults.signals import watch
from echojax.faults.tiny_run import CHECKPOINT_EVERY, TinyRun
from echojax.faults.trials import all_trials, attempt, quick_trials
from echojax.files import write_json
from echojax.scan_comparison.machine import cores, processor
from echojax.training.results import package_versions


@dataclass(frozen=True)
class Flags:
    """Disturb a small training in every way that clusters know, resume it and compare the ends."""

    out: Path = Path("runs/fault-drill")
    """Folder for fault-drill.json."""
    kills: int = 30
    """How many SIGKILLs, a third of them during a checkpoint write."""
    seed: int = 0
    """Chooses moments and bytes."""
    quick: bool = False
    """One run that is struck by four faults, one after the other."""


def drill(flags: Flags, command: tuple[str, ...], console: Console) -> bool:
    """Run the drill; return whether all went well.

    Args:
        flags: what the user asks for.
        command: what starts training.
        console: where to print.

    Raises:
        UserError: the undisturbed run fails, or the report cannot be written.
    """
    jax.config.update("jax_platforms", "cpu")
    flags.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fault-drill-") as folder:
        tiny = TinyRun(command, Path(folder))
        tiny.write_data()
        outcomes, facts = _outcomes(flags, tiny, console)
    path = flags.out / "fault-drill.json"
    write_json(path, _report(flags, outcomes, facts))
    console.print(_table(outcomes))
    console.print(_line(outcomes), f"report: {path}", sep="\n", highlight=False, soft_wrap=True)
    return all(one.passed for one in outcomes)


def _outcomes(
    flags: Flags, tiny: TinyRun, console: Console
) -> tuple[list[Outcome], dict[str, Any]]:
    """Return what came of each fault, and facts of the undisturbed run."""
    if not flags.quick:  # its moments need no care
        tiny.to_the_end(tiny.folder / "warm-up")  # fills the cache of compiled programs
    run = tiny.folder / "undisturbed"
    end, moments, known = watch(tiny, run)
    if end.code:
        raise UserError(f"the undisturbed run fails: {end.error[-300:]}")
    undisturbed, last = read_end(run), newest(run)
    facts = {
        "steps": last,
        "checkpoint_every": CHECKPOINT_EVERY,
        "checkpoints": moments.writes,
        "seconds": round(moments.end, 2),
    }
    console.print(f"undisturbed: {facts}", highlight=False, soft_wrap=True)
    rng, outcomes = random.Random(flags.seed), list[Outcome]()
    trials = (
        quick_trials(moments, last, rng)
        if flags.quick
        else all_trials(flags.kills, moments, last, rng)
    )
    for number, trial in enumerate(trials):
        found = attempt(tiny, trial, tiny.folder / f"run-{number}", undisturbed, known)
        outcomes += found
        for one in found:
            console.print(_said(one), highlight=False, soft_wrap=True, markup=False)
    return outcomes, facts


def _said(one: Outcome) -> str:
    verdict = "passed" if one.passed else f"FAILED: {'; '.join(one.problems) or _ending(one)}"
    return f"{one.fault}: {one.what}; resumed from step {one.resumed_from}; {verdict}"


def _ending(one: Outcome) -> str:
    if one.difference is None:
        return "no end"
    return f"differs by {one.difference:.1e}" if one.difference else "bit-identical"


def _report(flags: Flags, outcomes: list[Outcome], facts: dict[str, Any]) -> dict[str, Any]:
    words = ["python", "experiments/fault_drill.py"]
    words += ["--quick"] if flags.quick else ["--kills", str(flags.kills)]
    return {
        "command": shlex.join([*words, "--seed", str(flags.seed)]),
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": cores()},
        "versions": package_versions(),
        "undisturbed": facts,
        "summary": {"faults": len(outcomes), **_totals(outcomes)},
        "faults": [
            dataclasses.asdict(one)
            | {
                "steps_lost": one.steps_lost,
                "end": _ending(one),
                "difference": one.difference if one.difference in (None, 0) else _ending(one),
                "seconds": round(one.seconds, 2),
                "passed": one.passed,
            }
            for one in outcomes
        ],
    }


def _totals(outcomes: list[Outcome]) -> dict[str, int]:
    return {
        "failed": sum(not one.passed for one in outcomes),
        "steps_lost": sum(one.steps_lost for one in outcomes),
        "corrupt": sum(one.corrupt for one in outcomes),
        "silent": sum(one.silent for one in outcomes),
    }


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("fault", "tried", "failed", "lost", "corrupt", "silent", "end")
    for kind in dict.fromkeys(one.fault for one in outcomes):
        ours = [one for one in outcomes if one.fault == kind]
        ends = dict.fromkeys(map(_ending, ours))
        table.add_row(kind, str(len(ours)), *map(str, _totals(ours).values()), ", ".join(ends))
    return table


def _line(outcomes: list[Outcome]) -> str:
    totals = _totals(outcomes)
    return (
        f"{len(outcomes)} faults, {totals['failed']} failed; {totals['steps_lost']} steps lost "
        f"beyond the last checkpoint, {totals['corrupt']} corrupt, {totals['silent']} silent"
    )
