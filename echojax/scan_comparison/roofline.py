"""The least time that a scan could take on this device, from what the device was seen to do.

A scan must read its inputs and write its outputs once, and compute one exponential for each state
element (B * L * E * N), two more on the way back: one to rebuild the states, one for the decay
of their gradients.

    floor = max(bytes / copy bandwidth, exponentials / exp rate)
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from echojax.scan_comparison.programs import Pass
from echojax.scan_comparison.settings import Shape
from selective_scan.elementwise import exp2

FORMULA = (
    "floor = max(bytes / bandwidth, exponentials / rate). Forward, bytes: read u, delta, z "
    "(B·L·E each), B and C (B·L·N each), write y (B·L·E); exponentials: B·L·E·N. With backward, "
    "bytes: those, read u, delta, z, dy, B and C, write the gradients of u, delta, z, B and C, "
    "11·B·L·E + 6·B·L·N values in all, 2.75 times the forward's where E is much larger than N; "
    "exponentials: 3·B·L·E·N."
)

_EXPS = 64  # for each element that is read and written
_REPEATS = 7


class Roofline(NamedTuple):
    """What the device does in a second: bytes read and written, float32 exponentials."""

    bytes_per_second: float
    exps_per_second: float

    def floor_seconds(self, shape: Shape, dtype: str, which: Pass) -> float:
        """Return the least time of a scan; A, D and bias are too small to count."""
        B, L, E, N = shape
        forward = which == "forward"
        values = 4 * B * L * E + 2 * B * L * N if forward else 11 * B * L * E + 6 * B * L * N
        exps = shape.elements if forward else 3 * shape.elements
        return max(
            values * jnp.dtype(dtype).itemsize / self.bytes_per_second, exps / self.exps_per_second
        )


def measure_roofline(cpu: bool) -> Roofline:
    """Measure both with loops that are large enough for the device: the best of a few runs.

    The copy reads and writes an array past every cache, in place: fresh pages cost time on a CPU.
    The exponentials wait for no others; they are XLA's or those of the "fused" scan, which are the
    faster ones on a CPU.
    """
    copied = jnp.zeros((2**27 if cpu else 2**28,), jnp.float32)
    copied_bytes = 2 * copied.nbytes
    copy_seconds = _fastest(jax.jit(lambda x: x + 1, donate_argnums=0), copied)
    raised = jnp.linspace(0, 1, 2**20 if cpu else 2**26, dtype=jnp.float32)
    exp_seconds = min(_fastest(jax.jit(partial(_exps, exp)), raised) for exp in (jnp.exp, exp2))
    return Roofline(copied_bytes / copy_seconds, _EXPS * raised.size / exp_seconds)


def _exps(exponential: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    total = jnp.zeros_like(x)
    for place in range(_EXPS):
        total += exponential(x * -(1 + place / _EXPS))
    return total


def _fastest(compiled: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    """Return the seconds of the fastest run; each takes what the one before gave."""
    seconds = []
    for repeat in range(1 + _REPEATS):
        began = time.perf_counter()
        x = jax.block_until_ready(compiled(x))
        if repeat:  # the first run compiles
            seconds.append(time.perf_counter() - began)
    return min(seconds)
