"""One problem given to all implementations: ready, checked, then timed in turns."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from echojax.not_measured import not_measured
from echojax.scan_comparison.memory import budget_bytes, check_memory
from echojax.scan_comparison.problem import Problem, error, expected, input_bytes, make_problem
from echojax.scan_comparison.programs import PASSES, Pass, Program, run_first
from echojax.scan_comparison.roofline import Roofline
from echojax.scan_comparison.settings import Settings, Shape

Row = dict[str, Any]
Builder = Callable[[str, Problem, Pass], Program]

_LEAST_REPEATS, _MOST_REPEATS = 3, 200


def measure(
    shape: Shape,
    dtype: str,
    settings: Settings,
    builders: Mapping[str, Builder],
    roofline: Roofline,
    now: Callable[[str], None],
) -> list[Row]:
    """Return a row for each implementation and pass; one that fails is recorded, never raised.

    Args:
        shape: what to measure.
        dtype: of the large arrays.
        settings: implementations, time and memory.
        builders: who makes each implementation's programs.
        roofline: what the device can do.
        now: called before every step with what it is; may raise to stop.
    """
    rows = [
        _empty_row(shape, dtype, name, which)
        for name in settings.implementations
        for which in PASSES
    ]
    budget = budget_bytes(settings.max_memory_gib)
    now("making inputs")
    try:
        check_memory(input_bytes(shape, dtype), budget)
        problem = make_problem(shape, dtype)
        wanted = expected(problem)
    except Exception as failure:
        return [row | not_measured(failure) for row in rows]
    programs = []
    for row in rows:
        now(f"{row['implementation']} {row['pass']}")
        try:
            program = builders[row["implementation"]](row["implementation"], problem, row["pass"])
            _check(row, program, problem, wanted, budget)
            programs.append((row, program))
        except Exception as failure:
            row |= not_measured(failure)
    _time_in_turns(programs, settings.seconds, now)
    for row, _ in programs:
        if row["status"] == "measured":
            _derive(row, roofline.floor_seconds(shape, dtype, row["pass"]), shape)
    return rows


def _empty_row(shape: Shape, dtype: str, name: str, which: Pass) -> Row:
    measured = (
        "median_seconds", "min_seconds", "repeats", "compile_seconds", "memory_bytes", "memory",
        "device_peak_bytes", "ns_per_element", "floor_seconds", "floor_share", "errors",
    )  # fmt: skip
    case = shape._asdict() | {"dtype": dtype, "implementation": name, "pass": which}
    return case | {"status": "measured", "reason": None} | dict.fromkeys(measured)


def _check(
    row: Row, program: Program, problem: Problem, wanted: dict[str, np.ndarray], budget: int | None
) -> None:
    """Run a program for the first time, if it has room; record memory and errors."""
    row["compile_seconds"] = program.compile_seconds
    if program.memory:
        row["memory"], row["memory_bytes"] = program.memory, sum(program.memory.values())
    results, peak = run_first(program, budget)
    if peak is not None:
        row["device_peak_bytes"] = peak
    errors = {
        name: error(problem.cut.of(name, program.as_array(x)), wanted[name])
        for name, x in results.items()
    }
    if not all(map(math.isfinite, errors.values())):
        names = ", ".join(name for name, value in errors.items() if not math.isfinite(value))
        raise ArithmeticError(f"not finite: {names}")
    row["errors"] = errors


def _time_in_turns(
    programs: list[tuple[Row, Program]], budget: float, now: Callable[[str], None]
) -> None:
    """Repeat all programs round by round, so that noise hits all alike."""
    seconds: dict[int, list[float]] = {place: [] for place in range(len(programs))}
    while seconds:
        for place in list(seconds):
            row, program = programs[place]
            now(f"{row['implementation']} {row['pass']}")
            try:
                began = time.perf_counter()
                program.run()
                seconds[place].append(time.perf_counter() - began)
            except Exception as failure:
                row |= not_measured(failure)
                del seconds[place]
                continue
            spent, count = sum(seconds[place]), len(seconds[place])
            if count >= _LEAST_REPEATS and (spent >= budget or count >= _MOST_REPEATS):
                row["median_seconds"] = statistics.median(seconds[place])
                row["min_seconds"] = min(seconds[place])
                row["repeats"] = count
                del seconds[place]


def _derive(row: Row, floor: float, shape: Shape) -> None:
    row["ns_per_element"] = 1e9 * row["median_seconds"] / shape.elements
    row["floor_seconds"] = floor
    row["floor_share"] = floor / row["median_seconds"]
