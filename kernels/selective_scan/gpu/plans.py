"""The block sizes of a launch: a small table by the number of states, and a rule for long rows."""

from typing import NamedTuple

from jax.experimental import pallas as pl


class Plan(NamedTuple):
    """The block sizes of a launch.

    Attributes:
        block: channels of a program: 32, 64 or 128.
        chunk: positions of a chunk of the backward kernel, at most ``block``; ``chunk * block`` is
            a multiple of 512. The inputs of a chunk are in shared memory together, and there is one
            state per position. For the gradient, the states between chunks are stored. The forward
            kernels have two chunks in one.
        ahead: the number of chunks whose inputs the backward kernel has in shared memory at a time:
            2 hides the copies, 1 may leave room for one more program on the same multiprocessor.
    """

    block: int
    chunk: int
    ahead: int


# The key is the largest number of states that a plan is for; more states are run in parts.
# ``benchmarks/tune_scans.py`` measures the possible plans on a GPU and prints these lines.
PLANS: dict[int, Plan] = {
    16: Plan(block=64, chunk=8, ahead=1),
    32: Plan(block=64, chunk=8, ahead=2),
    64: Plan(block=64, chunk=8, ahead=2),
}
MOST_STATES = max(PLANS)

_MULTIPROCESSORS = 132  # of an H100 or H200; two programs fill one


def plan_for(states: int) -> Plan:
    """Return the table's plan for a number of states, at most ``MOST_STATES``."""
    return next(plan for most, plan in PLANS.items() if states <= most)


def segments_for(programs: int, length: int, chunk: int) -> int:
    """Return into how many segments of time each row is cut.

    Segments run in parallel, at the price of a second pass over the recurrence, which takes less
    than the first. That pays if whole rows would leave multiprocessors idle: then at least two
    segments fit. A smaller block of channels would not fill them as well: up to 16 states it needs
    as many instructions for half as many channels.
    """
    if programs >= _MULTIPROCESSORS:
        return 1
    return max(1, min(2 * _MULTIPROCESSORS // programs, pl.cdiv(length, 4 * chunk)))
