"""How long a program takes: one call and its wait, and a call in a full queue."""

import statistics
import time
from typing import Any, NamedTuple

from echojax.scan_comparison.programs import Program

_MOST_SAMPLES = 300
_QUEUE_SECONDS = 0.01
_MOST_QUEUED = 50


class Samples(NamedTuple):
    """Seconds a call.

    Attributes:
        alone: of one call that is waited for: what a program that needs the result pays.
        queued: of one of many calls of which only the last is waited for: the device's own time,
            where a call takes longer on the device than its start on the host.
    """

    alone: list[float]
    queued: list[float]


def time_in_turns(programs: list[Program], seconds: float, rounds: int = 3) -> list[Samples]:
    """Time programs, which have all run before, round by round, so that noise hits all alike.

    Args:
        programs: what to time.
        seconds: spent on each in all.
        rounds: turns that each one has, and so the fewest samples; at least 2.
    """
    samples = [Samples([], []) for _ in programs]
    for _ in range(rounds):
        for program, (alone, queued) in zip(programs, samples, strict=True):
            alone += _sample(program, 1, seconds / rounds / 2)
            calls = min(round(_QUEUE_SECONDS / statistics.median(alone)), _MOST_QUEUED)
            # A queue of one is a call alone: what is slow is not run twice as often for it.
            queued += _sample(program, calls, seconds / rounds / 2) if calls > 1 else alone[-1:]
    return samples


def spread(seconds: list[float]) -> dict[str, Any]:
    """Return median, quartiles and how many there are."""
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {
        "median_seconds": statistics.median(seconds),
        "quartiles_seconds": [low, high],
        "samples": len(seconds),
    }


def _sample(program: Program, calls: int, seconds: float) -> list[float]:
    """Return seconds a call, of one or more times so many calls in a queue."""
    sampled: list[float] = []
    while not sampled or (len(sampled) < _MOST_SAMPLES and sum(sampled) * calls < seconds):
        began = time.perf_counter()
        for _ in range(calls):
            results = program.start()
        program.wait(results)
        sampled.append((time.perf_counter() - began) / calls)
    return sampled
