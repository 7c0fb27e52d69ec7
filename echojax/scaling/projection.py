"""From a program's cost to its time on other machines: every line of the arithmetic.

    compute = max(FLOPs / (peak x share), bytes / (memory bandwidth x share))
    all-reduce of b bytes over g linked devices and m groups of these =
        2 (g-1)/g b / link + 2 (m-1)/m (b/g) / network + 2 log2(g) and 2 log2(m) hops
    step = compute + exchange

A step's gradients are exchanged in one all-reduce behind the last of them, so nothing overlaps.
"""

from math import ceil, log2
from typing import NamedTuple

from echojax.scaling.accelerators import (
    FLOPS_SHARE,
    LINK_LATENCY,
    LINK_SHARE,
    MEMORY_SHARE,
    NETWORK_LATENCY,
    Accelerator,
)


class Line(NamedTuple):
    """Something that grows with the rows of a device: ``fixed + each * rows``."""

    fixed: float
    each: float

    def at(self, rows: float) -> float:
        """Return it for so many rows."""
        return self.fixed + self.each * rows


def through(rows: tuple[int, int], values: tuple[float, float]) -> Line:
    """Return the line through the values of two programs."""
    each = (values[1] - values[0]) / (rows[1] - rows[0])
    return Line(values[0] - each * rows[0], each)


class Cost(NamedTuple):
    """What a step costs a device.

    Attributes:
        flops: of a device with so many rows.
        bytes: that it reads and writes.
        shards: parts of the item table, each on one of as many neighbours.
        wire: bytes that it sends to the other parts' devices.
        reduced: bytes of gradients that are summed over all groups of these.
    """

    flops: Line
    bytes: Line
    shards: int
    wire: Line
    reduced: float


class Projected(NamedTuple):
    """A step on ``devices``, in seconds."""

    devices: int
    rows: float
    compute: float
    exchange: float

    @property
    def step(self) -> float:
        """Seconds of the whole step."""
        return self.compute + self.exchange


def project(cost: Cost, on: Accelerator, devices: int, rows: float) -> Projected:
    """Return the step of ``rows`` on each of ``devices``, at least as many as the shards."""
    compute = max(
        cost.flops.at(rows) / (on.flops * FLOPS_SHARE),
        cost.bytes.at(rows) / (on.memory * MEMORY_SHARE),
    )
    linked = max(1, min(devices, on.domain) // cost.shards)
    groups = devices // cost.shards // linked
    exchange = all_reduce(cost.reduced, on, linked, groups)
    if cost.shards > 1:
        exchange += cost.wire.at(rows) / (on.link * LINK_SHARE)
        exchange += 2 * ceil(log2(cost.shards)) * LINK_LATENCY
    return Projected(devices, rows, compute, exchange)


def all_reduce(size: float, on: Accelerator, linked: int, groups: int) -> float:
    """Return the seconds in which ``groups`` of ``linked`` devices each sum ``size`` bytes."""
    inside = 2 * (linked - 1) / linked * size / (on.link * LINK_SHARE)
    across = 2 * (groups - 1) / groups * size / linked / (on.network * LINK_SHARE)
    hops = 2 * ceil(log2(linked)) * LINK_LATENCY + 2 * ceil(log2(groups)) * NETWORK_LATENCY
    return inside + across + hops


def efficiency(alone: float, one: Projected, *, weak: bool) -> float:
    """Return what share of its devices' time a step uses; ``alone``: seconds on one device."""
    return alone / one.step / (1 if weak else one.devices)


def pays_until(alone: float, steps: list[Projected], *, weak: bool, least: float = 0.5) -> int:
    """Return the most devices before the first that bring the efficiency below ``least``."""
    found = 1
    for one in steps:
        if efficiency(alone, one, weak=weak) < least:
            break
        found = one.devices
    return found
