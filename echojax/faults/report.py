"""The drill's report, and what it says on the way."""

import dataclasses
import shlex
from datetime import date
from typing import Any

from rich.table import Table

from echojax.faults.outcome import Outcome
from echojax.machine import cores, processor
from echojax.training.results import package_versions


def said(one: Outcome) -> str:
    """Return what came of a fault, in a line."""
    verdict = "passed" if one.passed else f"FAILED: {'; '.join(one.problems) or _ending(one)}"
    return f"{one.fault}: {one.what}; resumed from step {one.resumed_from}; {verdict}"


def _ending(one: Outcome) -> str:
    if one.difference is None:
        return "no end"
    return f"differs by {one.difference:.1e}" if one.difference else "bit-identical"


def report(command: list[str], outcomes: list[Outcome], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the report, JSON-able; ``facts`` are of the undisturbed run."""
    return {
        "command": shlex.join(command),
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


def table(outcomes: list[Outcome]) -> Table:
    """Return the faults by kind."""
    table = Table("fault", "tried", "failed", "lost", "corrupt", "silent", "end")
    for kind in dict.fromkeys(one.fault for one in outcomes):
        ours = [one for one in outcomes if one.fault == kind]
        ends = dict.fromkeys(map(_ending, ours))
        table.add_row(kind, str(len(ours)), *map(str, _totals(ours).values()), ", ".join(ends))
    return table


def line(outcomes: list[Outcome]) -> str:
    """Return all in one line."""
    totals = _totals(outcomes)
    return (
        f"{len(outcomes)} faults, {totals['failed']} failed; {totals['steps_lost']} steps lost "
        f"beyond the last checkpoint, {totals['corrupt']} corrupt, {totals['silent']} silent"
    )
