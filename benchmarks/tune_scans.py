"""Find the best block sizes of the GPU kernels on this GPU: python benchmarks/tune_scans.py.

It prints lines for PLANS in kernels/selective_scan/gpu/plans.py, and compares the rule for long
rows with the best number of segments.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import harness
from echojax.errors import UserError
from harness import Row, log
from scan_problems import Shape
from scan_programs import PASSES, Roofline
from scan_report import device_seconds
from scans import DTYPES, Settings, held_to_tolerance, measure
from selective_scan import implementations
from selective_scan.gpu.plans import PLANS, Plan, plan_for, segments_for

# Sizes for the table of plans, and a few long rows for the rule of segments.
_SIZES = {
    "plan": [
        *((2048, 50, 128, states) for states in (16, 32, 64)),
        (8, 2048, 2048, 16),
        (2048, 200, 128, 32),
    ],
    "segments": [
        *((1, 16384, channels, 16) for channels in (256, 1024)),
        (4, 4096, 128, 32),
        # Small batches of wide models have few programs: the rule cuts their rows into two or more.
        *((1, 2048, channels, 16) for channels in (1536, 5120)),
    ],
}
_TINY = (2, 9, 5, 3)
Case = tuple[Any, ...]  # B, L, E, N and dtype


@dataclass(frozen=True)
class Flags(harness.Flags):
    """Find the block sizes of the kernels on this machine's GPU, in about fifteen minutes."""

    dry_run: bool = False
    """Try two plans on a tiny size with the kernels interpreted, on any machine."""


def plans() -> list[Plan]:
    """Return all plans that are valid for the kernels."""
    return [
        Plan(block, chunk, ahead)
        for block in (32, 64, 128)
        for chunk in (4, 8, 16, 32)
        if block * chunk % 512 == 0
        for ahead in (1, 2)
    ]


def main(flags: Flags) -> None:
    """Measure the cases that have no row yet, write the file and print the lines."""
    if not flags.dry_run and (reason := implementations()["pallas_gpu"]) is not None:
        raise UserError(f"pallas_gpu {reason}; --dry-run tries a tiny size, interpreted")
    tiny = {"plan": [_TINY], "segments": [_TINY]}
    cases: list[Row] = [
        {"what": what} | Shape(*size)._asdict() | {"dtype": dtype}
        for what, sizes in (tiny if flags.dry_run else _SIZES).items()
        for size in sizes
        for dtype in (DTYPES if what == "plan" and not flags.dry_run else DTYPES[:1])
    ]
    seconds = 0.01 if flags.dry_run else 0.1
    with harness.record_of("tune_scans", flags) as record:
        for case in record.missing(cases):
            options = options_of(case, dry_run=flags.dry_run)
            settings = Settings((), tuple(options), seconds, None)
            rows = measure(case, settings, Roofline(math.inf, math.inf), record, options)
            record.add(*map(held_to_tolerance, rows))
        rows = record.document.rows
        log.info("\n".join([*failures(rows), *plan_lines(rows), *segment_lines(rows)]))


def options_of(case: Row, *, dry_run: bool) -> dict[str, Row]:
    """Return the options to try by name: plans, or numbers of segments."""
    if case["what"] == "plan":
        tried = [Plan(32, 16, 1), Plan(64, 8, 2)] if dry_run else plans()
        options: dict[str, Row] = {name_of(plan): {"plan": plan} for plan in tried}
    else:
        counts = {1, rule_of(case)} | {2**k for k in range(1, 2 if dry_run else 9)}
        options = {str(n): {"segments": n} for n in sorted(counts)}
    return {name: option | {"interpret": dry_run} for name, option in options.items()}


def rule_of(case: Row) -> int:
    """Return the number of segments into which the rule cuts the rows of a case."""
    plan = plan_for(case["states"])
    programs = case["batch"] * math.ceil(case["channels"] / plan.block)
    return segments_for(programs, case["length"], plan.chunk)


def name_of(plan: Plan) -> str:
    """Return a plan as text."""
    return "block {}, chunk {}, ahead {}".format(*plan)


def seconds_of(rows: Sequence[Row], which: str) -> dict[Case, dict[str, float]]:
    """Return, for each case, the seconds of a pass with each option that ran."""
    seconds: dict[Case, dict[str, float]] = {}
    for row in rows:
        case = tuple(row[name] for name in (*Shape._fields, "dtype"))
        own = seconds.setdefault(case, {})
        if row["status"] == "measured" and row["pass"] == which:
            own[row["implementation"]] = device_seconds(row)
    return seconds


def slowness(rows: Sequence[Row]) -> dict[str, float]:
    """Return each plan's time, with the backward pass, relative to the best plan of the same case.

    This is the geometric mean over cases, at least 1, for the plans that ran in all of them.
    """
    cases = seconds_of(rows, PASSES[1])
    relative: dict[str, list[float]] = {}
    for seconds in cases.values():
        for name, value in seconds.items():
            relative.setdefault(name, []).append(value / min(seconds.values()))
    return {
        name: statistics.geometric_mean(values)
        for name, values in relative.items()
        if len(values) == len(cases)
    }


def plan_lines(rows: Sequence[Row]) -> list[str]:
    """Return the table's new lines, each compared with the present one."""
    lines = []
    tried = [row for row in rows if row["what"] == "plan"]
    for most in PLANS:
        own = [row for row in tried if most == next(n for n in PLANS if row["states"] <= n)]
        found = slowness(own)
        if not found:
            lines += [f"    # {most}: no plan ran at all sizes; see the file"] if own else []
            continue
        best = min(found, key=found.__getitem__)
        plan = next(plan for plan in plans() if name_of(plan) == best)
        present = name_of(PLANS[most])
        gain = f"{found[present]:.3f}" if present in found else "does not run"
        lines.append(
            f"    {most}: {plan},  # {found[best]:.3f} of the best at each size; "
            f"the present line: {gain}"
        )
    return lines


def segment_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line for each size and pass, with the best number of segments and the rule's."""
    lines = []
    for which in PASSES:
        found = seconds_of([row for row in rows if row["what"] == "segments"], which)
        for case, seconds in found.items():
            rule = str(rule_of(dict(zip(Shape._fields, case, strict=False))))
            if seconds:
                best = min(seconds, key=seconds.__getitem__)
                beside = f"{seconds[rule] / seconds[best]:.3f}" if rule in seconds else "no time"
                lines.append(
                    f"{case} {which}: best in {best} segments, {seconds[best] * 1e3:.3g} ms; "
                    f"the rule's {rule}: {beside} of that"
                )
    return lines


def failures(rows: Sequence[Row]) -> list[str]:
    """Return a line for each option that did not run, or had wrong results, with the reason."""
    named = (*Shape._fields, "dtype", "implementation", "pass", "status", "reason")
    return [
        harness.title({name: row[name] for name in named})
        for row in rows
        if row["status"] != "measured"
    ]


if __name__ == "__main__":
    harness.run(Flags, main)
