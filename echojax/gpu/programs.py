"""Programs that are timed: compiled, seen to fit and to be right, then timed in turns."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from echojax.gpu.record import Row
from echojax.gpu.timing import spread, time_in_turns
from echojax.not_measured import not_measured
from echojax.scan_comparison.memory import budget_bytes
from echojax.scan_comparison.problem import Problem, error, expected
from echojax.scan_comparison.programs import Pass, Program, run_first
from echojax.signals import Interrupted

Arrays = dict[str, jax.Array]

# A problem's arguments as ``selective_scan`` takes them.
ORDER = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")

Builder = Callable[[Pass], Program]
# Results by name -> errors by name.
Check = Callable[[dict[str, Any]], dict[str, float]]


def measure(
    builders: Mapping[tuple[str, Pass], Builder],
    seconds: float,
    now: Callable[[str], None],
    check: Check | None = None,
) -> list[Row]:
    """Return a row for each program; one that fails is recorded.

    Args:
        builders: who makes each program, by name and pass.
        seconds: spent on the repeats of each.
        now: called before each step with what it is; raises ``Skipped`` where time is over.
        check: holds the first run's results against what is right.
    """
    rows: list[Row] = []
    ready = []
    for (name, which), build in builders.items():
        row: Row = {"implementation": name, "pass": which, "status": "measured"}
        rows.append(row)
        try:
            now(f"{name} {which}")
            ready.append((row, _prepare(row, build, which, check)))
        except Interrupted:
            raise
        except Exception as failure:
            row |= _failed_or_too_large(failure)
    timed = time_in_turns([program for _, program in ready], seconds)
    for (row, _), samples in zip(ready, timed, strict=True):
        row |= {"alone": spread(samples.alone), "queued": spread(samples.queued)}
    return rows


def _prepare(row: Row, build: Builder, which: Pass, check: Check | None) -> Program:
    """Compile a program, run it once, write down what that tells."""
    program = build(which)
    if program.compile_seconds is not None:
        row["compile_seconds"] = program.compile_seconds
    if program.memory:
        row["memory"] = program.memory
    results, peak = run_first(program, budget_bytes(None))
    if peak is not None:
        row["device_peak_bytes"] = peak
    if check is not None:
        errors = check({name: program.as_array(x) for name, x in results.items()})
        row["errors"] = {name: e if math.isfinite(e) else None for name, e in errors.items()}
    return program


def oracle_check(problem: Problem) -> Check:
    """Return the check of a problem's programs against the float64 oracle."""
    wanted = expected(problem)
    return lambda results: {
        name: error(problem.cut.of(name, x), wanted[name]) for name, x in results.items()
    }


def wrong(row: Row, tolerance: float) -> list[str]:
    """Return what a measured program got wrong, in words."""
    return [
        f"{name} is off by {'no number' if value is None else f'{value:.1e}'}"
        for name, value in row.get("errors", {}).items()
        if value is None or value > tolerance
    ]


def _failed_or_too_large(failure: Exception) -> Row:
    row = not_measured(failure)
    if "RESOURCE_EXHAUSTED" in row["reason"] or "out of memory" in row["reason"]:
        row["status"] = "skipped"
    return row
