"""A case timed: the median and the 99th percentile of its latencies."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from echojax.not_measured import Skipped, not_measured
from echojax.scan_comparison.memory import budget_bytes, check_memory
from echojax.serving_bench.programs import Program, expected_bytes, make_program
from echojax.serving_bench.settings import Case, Settings

Row = dict[str, Any]

_LEAST_REPEATS, _MOST_REPEATS = 3, 1000


def measure(case: Case, settings: Settings, check: Callable[[], None]) -> Row:
    """Return a case's row; one that fails is recorded, never raised.

    Args:
        case: what to measure.
        settings: time and memory.
        check: called before every run; may raise to stop.
    """
    row: Row = case._asdict() | {"status": "measured", "reason": None}
    row |= dict.fromkeys(
        ("p50_seconds", "p99_seconds", "min_seconds", "repeats", "compile_seconds", "memory_bytes")
    )
    try:
        budget = budget_bytes(settings.max_memory_gib)
        check_memory(expected_bytes(case), budget)
        program = make_program(case)
        row["compile_seconds"], row["memory_bytes"] = program.compile_seconds, program.memory_bytes
        check_memory(program.memory_bytes or 0, budget)
        seconds = latencies(program, settings.seconds, check)
    except (Skipped, RuntimeError, MemoryError) as failure:  # XLA's own are RuntimeErrors
        return row | not_measured(failure)
    return row | {
        "p50_seconds": float(np.quantile(seconds, 0.5)),
        # Of fewer than 100 repeats this is the longest.
        "p99_seconds": float(np.quantile(seconds, 0.99, method="higher")),
        "min_seconds": min(seconds),
        "repeats": len(seconds),
    }


def latencies(program: Program, budget: float, check: Callable[[], None]) -> list[float]:
    """Return the seconds of each repeat, after a first one that does not count."""
    seconds: list[float] = []
    check()
    program.run(*program.prepare())
    while len(seconds) < _LEAST_REPEATS or (sum(seconds) < budget and len(seconds) < _MOST_REPEATS):
        check()
        arguments = program.prepare()
        began = time.perf_counter()
        program.run(*arguments)
        seconds.append(time.perf_counter() - began)
    return seconds
