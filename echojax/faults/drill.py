"""The drill: an undisturbed run, then every fault, a report and a table."""

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from echojax.errors import UserError
from echojax.faults.attempt import attempt
from echojax.faults.outcome import Outcome
from echojax.faults.report import line, report, said, table
from echojax.faults.run_state import newest, read_end
from echojax.faults.signals import watch
from echojax.faults.tiny_run import CHECKPOINT_EVERY, TinyRun
from echojax.faults.trials import all_trials, quick_trials
from echojax.files import write_json


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
    write_json(path, report(_command(flags), outcomes, facts))
    console.print(table(outcomes))
    console.print(line(outcomes), f"report: {path}", sep="\n", highlight=False, soft_wrap=True)
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
            console.print(said(one), highlight=False, soft_wrap=True, markup=False)
    return outcomes, facts


def _command(flags: Flags) -> list[str]:
    kind = ["--quick"] if flags.quick else ["--kills", str(flags.kills)]
    return ["python", "experiments/fault_drill.py", *kind, "--seed", str(flags.seed)]
