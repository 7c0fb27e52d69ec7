"""The tuning of the GPU kernels' block sizes: everything tried, the lines for the table printed."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from echojax.gpu.plan_tuning import best_plans, plan_tasks, segment_tasks
from echojax.gpu.record import Record, Row
from echojax.gpu.rehearsal import kernels
from echojax.signals import Interrupted, deferred_interrupts


@dataclass(frozen=True)
class Flags:
    """Find the block sizes of the GPU kernels on this machine's GPU; about fifteen minutes.

    Prints lines for PLANS in kernels/selective_scan/mosaic_plans.py and what the rule for long
    rows gives beside what is best.
    """

    out: Path | None = None
    """The file with all times (runs/scan-plans-DATE-TIME.json)."""
    rehearse: bool = False
    """Try two plans on a tiny size with the kernels interpreted, on any machine."""


def tune(flags: Flags, console: Console) -> None:
    """Run the command.

    Raises:
        UserError: there is no GPU, or a flag is of no use.
        Interrupted: by SIGINT or SIGTERM; what there is is in the file.
    """
    rehearse = flags.rehearse
    path = flags.out or Path("runs") / time.strftime("scan-plans-%Y%m%d-%H%M%S.json")
    command = "python experiments/tune_scans.py" + (" --rehearse" if rehearse else "")
    with kernels(rehearse=rehearse), deferred_interrupts() as interrupts:
        record = Record(
            path, command, [], rehearsal=rehearse, console=console, interrupts=interrupts
        )
        if rehearse:
            record.say("rehearsal: tiny sizes, kernels interpreted; no figure means anything")
        try:
            plans = record.section("plans", plan_tasks(record.now, rehearse=rehearse))
            segments = record.section("segments", segment_tasks(record.now, rehearse=rehearse))
        except Interrupted as stop:
            record.write()
            line = f"interrupted; what there is is in {path}"
            raise Interrupted(line, stop.code - 128) from None
        record.document["best"] = best_plans(plans)
        record.finish()
    for line in (
        *_failures([*plans, *segments]),
        *_plan_lines(record.document["best"]),
        *_segment_lines(segments),
    ):
        record.say(line)
    record.say(f"results: {path}")


def _failures(problems: list[Row]) -> list[str]:
    """Return what did not run, or ran wrong, and why."""
    return [
        f"{problem['name']}: {row['implementation']} {row['pass']} {row['status']}: {row['reason']}"
        for problem in problems
        for row in problem.get("programs", [])
        if row["status"] != "measured"
    ]


def _plan_lines(lines: list[Row]) -> list[str]:
    """Return the table's lines, each with what it gains."""
    said = []
    for line in lines:
        slowness, present = line["slowness"], line["present"]
        if not slowness:
            said.append(f"    # {line['states']}: no plan ran at all sizes; see the file")
            continue
        gain = "does not run" if present not in slowness else f"{slowness[present]:.3f}"
        said.append(
            f"    {line['line']}  # {min(slowness.values()):.3f} of the best at each size; "
            f"the present line: {gain}"
        )
    return said


def _segment_lines(problems: list[Row]) -> list[str]:
    """Return for each size and pass the best number of segments beside the rule's."""
    said = []
    for problem in problems:
        times: dict[Any, dict[int, float]] = {}
        for row in problem.get("programs", []):
            if row["status"] == "measured":
                seconds = row["queued"]["median_seconds"]
                times.setdefault(row["pass"], {})[int(row["implementation"])] = seconds
        for which, seconds in times.items():
            best, rule = min(seconds, key=seconds.__getitem__), problem["rule"]
            ratio = f"{seconds[rule] / seconds[best]:.3f}" if rule in seconds else "does not run"
            said.append(
                f"{problem['name']} {which}: best in {best} segments, "
                f"{seconds[best] * 1e3:.3g} ms; the rule's {rule}: {ratio} of that"
            )
    return said
