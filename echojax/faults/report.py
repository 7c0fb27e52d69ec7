"""The drill's report, and what it says on the way."""

import dataclasses
import shlex
from collections.abc import Sequence
from datetime import date
from typing import Any

from rich.table import Table

from echojax.faults.outcome import Outcome
from echojax.machine import cores, processor
from echojax.training.results import package_versions


def said(one: Outcome) -> str:
    """Return what came of a fault, in a line and one for each problem."""
    verdict = "FAILED" if one.problems else "passed"
    problems = "".join(f"\n  {problem}" for problem in one.problems)
    resumed = "" if one.fault == "none" else f"; resumed from step {one.resumed_from}"
    return f"{one.fault}: {one.what}{resumed}; {verdict} ({one.seconds:.1f} s){problems}"


def report(
    command: list[str], outcomes: Sequence[Outcome], facts: list[dict[str, int]]
) -> dict[str, Any]:
    """Return the report, JSON-able; ``facts`` are of the undisturbed runs."""
    return {
        "command": shlex.join(command),
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": cores()},
        "versions": package_versions(),
        "undisturbed": facts,
        "summary": _totals(outcomes),
        "faults": [
            dataclasses.asdict(one) | {"seconds": round(one.seconds, 2), "passed": not one.problems}
            for one in outcomes
        ],
    }


def _totals(outcomes: Sequence[Outcome]) -> dict[str, int]:
    faults = [one for one in outcomes if one.fault != "none"]
    return {
        "faults": len(faults),
        "after_best": sum(one.after_best for one in faults),
        "failed": sum(bool(one.problems) for one in outcomes),
    }


def table(outcomes: Sequence[Outcome]) -> Table:
    """Return the faults by kind."""
    table = Table("fault", "tried", "after the best step", "failed")
    for kind in dict.fromkeys(one.fault for one in outcomes):
        ours = [one for one in outcomes if one.fault == kind]
        counts = len(ours), sum(one.after_best for one in ours), sum(bool(o.problems) for o in ours)
        table.add_row(kind, *map(str, counts))
    return table


def line(outcomes: Sequence[Outcome]) -> str:
    """Return all in one line."""
    totals = _totals(outcomes)
    return (
        f"{totals['faults']} faults, {totals['after_best']} of them after the best step, "
        f"{totals['failed']} failed"
    )
