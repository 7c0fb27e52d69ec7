"""Find the GPU kernels' block sizes on this GPU: python benchmarks/tune_scans.py.

Prints lines for PLANS in kernels/selective_scan/mosaic_plans.py, and what the rule for long rows
gives beside what is best.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import jax
import scan_programs
from harness import Program, Record, Row, log
from scan_programs import PASSES, Problem, Shape
from scans import DTYPES

from echojax.errors import UserError
from selective_scan import implementations, pallas_gpu
from selective_scan.arguments import ScanInputs
from selective_scan.mosaic_arrays import Options
from selective_scan.mosaic_plans import PLANS, Plan, plan_for, segments_for

# Sizes that each line of the table is for, and of few long rows.
_SHAPES = {
    16: (Shape(2048, 50, 128, 16), Shape(8, 2048, 2048, 16)),
    32: (Shape(2048, 50, 128, 32), Shape(2048, 200, 128, 32)),
    64: (Shape(2048, 50, 128, 64),),
}
_LONG = (Shape(1, 16384, 256, 16), Shape(1, 16384, 1024, 16), Shape(4, 4096, 128, 32))
_TINY = Shape(2, 9, 5, 3)
# Largest error relative to the largest value.
_TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Flags:
    """Find the block sizes of the GPU kernels on this machine's GPU; about fifteen minutes.

    A file that holds a part of the same search is continued.
    """

    out: Path | None = None
    """The JSON file with all times (runs/scan-plans-DATE-TIME.json)."""
    dry_run: bool = False
    """Try two plans on a tiny size with the kernels interpreted, on any machine."""


def plans() -> list[Plan]:
    """Return the plans that the kernels can have."""
    return [
        Plan(block, chunk, ahead)
        for block in (32, 64, 128)
        for chunk in (4, 8, 16, 32)
        if block * chunk % 512 == 0
        for ahead in (1, 2)
    ]


def tune(flags: Flags) -> None:
    """Try what is missing, write the file and print the lines.

    Raises:
        UserError: there is no GPU for the kernels.
    """
    if not flags.dry_run and (reason := implementations()["pallas_gpu"]) is not None:
        raise UserError(f"pallas_gpu {reason}; --dry-run tries little, interpreted")
    shapes = {16: (_TINY,)} if flags.dry_run else _SHAPES
    cases: list[Row] = [
        {"what": "plan", "states": states, "dtype": dtype, "shape": list(shape)}
        for states, sizes in shapes.items()
        for shape in sizes
        for dtype in (DTYPES[:1] if flags.dry_run else DTYPES)
    ]
    cases += [
        {"what": "segments", "dtype": DTYPES[0], "shape": list(shape)}
        for shape in ((_TINY,) if flags.dry_run else _LONG)
    ]
    path = flags.out or harness.default_path("scan-plans")
    command = harness.command_of("tune_scans.py", flags)
    with Record(path, command, {"dry_run": flags.dry_run}) as record:
        for case in record.missing(cases):
            with record.row(case) as row:
                row["programs"] = measure(case, dry_run=flags.dry_run)
        rows = record.document.rows
        for line in (*failures(rows), *plan_lines(rows), *segment_lines(rows)):
            log.info(line)


def options_of(case: Row, *, dry_run: bool) -> dict[str, Row]:
    """Return what to try, by name: plans, or numbers of segments."""
    if case["what"] == "plan":
        tried = [Plan(32, 16, 1), Plan(64, 8, 2)] if dry_run else plans()
        return {name_of(plan): {"plan": plan} for plan in tried}
    counts = {1, rule_of(case)} | {2**k for k in range(1, 2 if dry_run else 9)}
    return {str(n): {"segments": n} for n in sorted(counts)}


def rule_of(case: Row) -> int:
    """Return into how many segments the rule cuts the rows of a case."""
    shape = Shape(*case["shape"])
    plan = plan_for(shape.states)
    programs = shape.batch * math.ceil(shape.channels / plan.block)
    return segments_for(programs, shape.length, plan.chunk)


def measure(case: Row, *, dry_run: bool) -> list[Row]:
    """Time the kernels with each option; what does not run, or runs wrong, is recorded."""
    problem = scan_programs.make_problem(Shape(*case["shape"]), case["dtype"])
    wanted = problem.expected()
    rows, ready = [], []
    for name, option in options_of(case, dry_run=dry_run).items():
        # The forward kernel has nothing of ``ahead``.
        only_backward = case["what"] == "plan" and option["plan"].ahead > 1
        for which in PASSES[1:] if only_backward else PASSES:
            row: Row = {"option": name, "pass": which, "status": "measured"}
            rows.append(row)
            try:
                program = _program(problem, which, option, interpret=dry_run)
                row["memory"], results = program.memory, program.run()
                for key, x in results.items():
                    error = scan_programs.error(problem.cut(key, x), wanted[key])
                    if not error <= _TOLERANCES[case["dtype"]]:  # not a number is wrong too
                        raise ArithmeticError(f"{key} is off by {error:.1e}")
                ready.append((row, program))
            except Exception as failure:
                row |= harness.not_measured(failure)
    seconds = 0.01 if dry_run else 0.1
    timed = harness.time_in_turns([program for _, program in ready], seconds)
    for (row, _), samples in zip(ready, timed, strict=True):
        row |= samples.row()
    return rows


def _program(problem: Problem, which: Any, option: Row, *, interpret: bool) -> Program:
    def scan(arguments: dict[str, jax.Array]) -> jax.Array:
        inputs = ScanInputs(*(arguments[name] for name in scan_programs.ORDER))
        one = jax.tree.map(lambda x: x[None], inputs)
        options = Options(softplus=True, reverse=(False,), interpret=interpret, **option)
        return pallas_gpu.scan_sets(one, options)[0][0]

    return scan_programs.jax_program(scan, problem.arguments, problem.dy, which)


def name_of(plan: Plan) -> str:
    """Return a plan in words."""
    return "block {}, chunk {}, ahead {}".format(*plan)


def seconds_of(row: Row, *passes: str) -> dict[str, dict[str, float]]:
    """Return the seconds of a case's options that ran, by pass."""
    seconds: dict[str, dict[str, float]] = {which: {} for which in passes}
    for program in row.get("programs", []):
        if program["status"] == "measured" and program["pass"] in passes:
            best = program.get("queued_seconds") or program["median_seconds"]
            seconds[program["pass"]][program["option"]] = best
    return seconds


def slowness(rows: Sequence[Row]) -> dict[str, float]:
    """Return each plan's time over the best one's at the same size and dtype, both passes.

    It is the geometric mean over the cases, of plans that ran in all of them; 1 at the least.
    """
    relative: dict[str, list[float]] = {}
    for row in rows:
        seconds = seconds_of(row, PASSES[1])[PASSES[1]]
        for name, value in seconds.items():
            relative.setdefault(name, []).append(value / min(seconds.values()))
    return {
        name: statistics.geometric_mean(values)
        for name, values in relative.items()
        if len(values) == len(rows)
    }


def plan_lines(rows: Sequence[Row]) -> list[str]:
    """Return the table's lines, each with what it gains."""
    lines = []
    for states in dict.fromkeys(row["states"] for row in rows if row["what"] == "plan"):
        found = slowness([row for row in rows if row.get("states") == states])
        if not found:
            lines.append(f"    # {states}: no plan ran at all sizes; see the file")
            continue
        best = min(found, key=found.__getitem__)
        plan = next(plan for plan in plans() if name_of(plan) == best)
        present = name_of(PLANS[states])
        gain = f"{found[present]:.3f}" if present in found else "does not run"
        lines.append(
            f"    {states}: {plan},  # {found[best]:.3f} of the best at each size; "
            f"the present line: {gain}"
        )
    return lines


def segment_lines(rows: Sequence[Row]) -> list[str]:
    """Return for each size and pass the best number of segments beside the rule's."""
    lines = []
    for row in (row for row in rows if row["what"] == "segments"):
        rule = str(rule_of(row))
        for which, seconds in seconds_of(row, *PASSES).items():
            if seconds:
                best = min(seconds, key=seconds.__getitem__)
                ratio = (
                    f"{seconds[rule] / seconds[best]:.3f}" if rule in seconds else "does not run"
                )
                lines.append(
                    f"{row['shape']} {which}: best in {best} segments, {seconds[best] * 1e3:.3g} "
                    f"ms; the rule's {rule}: {ratio} of that"
                )
    return lines


def failures(rows: Sequence[Row]) -> list[str]:
    """Return what did not run, or ran wrong, and why."""
    return [
        f"{row['shape']} {one.get('option', '')} {one.get('pass', '')} {one['status']}: "
        f"{one['reason']}"
        for row in rows
        for one in (row, *row.get("programs", []))
        if one["status"] != "measured"
    ]


if __name__ == "__main__":
    harness.run(Flags, tune)
