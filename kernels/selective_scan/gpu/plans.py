"""Which block sizes a launch takes: a small table by states, and the rule for long rows."""

from typing import NamedTuple

from jax.experimental import pallas as pl


class Plan(NamedTuple):
    """How a launch is cut up.

    Attributes:
        block: channels a program: 32, 64 or 128.
        chunk: positions a chunk, at most ``block``; ``chunk * block`` is a multiple of 512. In the
            forward kernel their inputs are in shared memory at a time, in the backward kernel also
            one state for each of them. A state is kept between chunks.
        ahead: chunks whose inputs the backward kernel has in shared memory at a time: 2 hides
            the copies, 1 may leave room for one program more on the same multiprocessor.
    """

    block: int
    chunk: int
    ahead: int


# By the largest number of states that a line is for; more states are run in parts.
# ``benchmarks/tune_scans.py`` measures the choices on a GPU and prints the lines.
PLANS: dict[int, Plan] = {
    16: Plan(block=64, chunk=8, ahead=1),
    32: Plan(block=64, chunk=8, ahead=2),
    64: Plan(block=64, chunk=8, ahead=2),
}
MOST_STATES = max(PLANS)

# Programs that fill a GPU: two for each of the 132 multiprocessors of an H100 or H200.
_FULL = 264


def plan_for(states: int) -> Plan:
    """Return the table's plan for so many states, at most ``MOST_STATES``."""
    return next(plan for most, plan in PLANS.items() if states <= most)


def segments_for(programs: int, length: int, chunk: int) -> int:
    """Return into how many parts of time rows are cut.

    Parts run side by side, at the price of a second pass over the recurrence; that pays only where
    whole rows leave more than half of the GPU idle.
    """
    if 2 * programs > _FULL // 2:
        return 1
    return max(1, min(_FULL // programs, pl.cdiv(length, 4 * chunk)))
