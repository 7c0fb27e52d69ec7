"""A program's chunk of time inside the TPU kernels: which positions it visits, and its inputs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from selective_scan.pallas_tpu_launch import GROUP, Launch, Refs


class Chunk:
    """The inputs of a chunk in float32, 0 where nothing is visited, and the walk over it.

    Attributes:
        visited_KxE: visited positions, and channels inside the arrays.
    """

    def __init__(self, launch: Launch, refs: Refs):
        self._launch, self._refs = launch, refs
        start = launch.chunk_at(pl.program_id(2)) * launch.chunk
        self._length = refs["lengths"][0, 0]
        # Groups of positions that hold a visited one; they are the first of the chunk.
        visited = jnp.clip(self._length - start, 0, launch.chunk)
        self._groups = (visited + GROUP - 1) >> (GROUP.bit_length() - 1)

        channel_1xE = jax.lax.broadcasted_iota(jnp.int32, (1, launch.block), 1)
        self._inside_1xE = channel_1xE < launch.channels - pl.program_id(1) * launch.block
        position_KxE = jax.lax.broadcasted_iota(jnp.int32, (launch.chunk, launch.block), 0)
        self.visited_KxE = (position_KxE < visited) & self._inside_1xE

        self._lane_1xW = jax.lax.broadcasted_iota(jnp.int32, (1, launch.window), 1)
        self._window_start = launch.window_at(pl.program_id(2)) * launch.window
        self._first_lane = start - self._window_start

    def channels(self, name: str) -> Array:
        """Return a (K, E) input."""
        return jnp.where(self.visited_KxE, self._refs[name][...].astype(jnp.float32), 0)

    def collected(self, name: str) -> Array:
        """Return what a walk wrote, (K, E); it writes nothing where it does not come by."""
        return jnp.where(self.visited_KxE, self._refs[name][...], 0)

    def states(self, name: str) -> Array:
        """Return B or C in the whole window, (N, W)."""
        visited_1xW = self._window_start + self._lane_1xW < self._length
        return jnp.where(visited_1xW, self._refs[name][...].astype(jnp.float32), 0)

    def lane_of(self, position: Array) -> Array:
        """Return where in the window a position of the chunk is, (1, W)."""
        return self._lane_1xW == self._first_lane + position

    def inside(self, name: str) -> Array:
        """Return a state, or A, with 0 beyond the last channel, (N, E)."""
        x_NxE = self._refs[name][...]
        if self._launch.channels % self._launch.block == 0:
            return x_NxE
        return jnp.where(self._inside_1xE, x_NxE, 0)

    def time_steps(self) -> tuple[Array, Array]:
        """Return delta + bias and t, (K, E)."""
        raw_KxE = self.channels("delta")
        if "bias" in self._refs:
            raw_KxE += self._refs["bias"][...]
        t_KxE = raw_KxE
        if self._launch.softplus:
            t_KxE = jnp.maximum(raw_KxE, 0) + jnp.log1p(jnp.exp(-jnp.abs(raw_KxE)))
        return raw_KxE, jnp.where(self.visited_KxE, t_KxE, 0)

    def walk(self, visit: Callable[..., Any], carry: Any, *, descending: bool) -> Any:
        """Return the carry behind ``carry = visit(position, carry)`` over visited positions.

        Groups of 8 positions without a visited one are left out.
        """

        def group(i: Array, carry: Any) -> Any:
            first = pl.multiple_of(GROUP * (self._groups - 1 - i if descending else i), GROUP)

            def one(j: Array, carry: Any) -> Any:
                return visit(first + (GROUP - 1 - j if descending else j), carry)

            # Unrolled, an interpreted kernel takes long to compile.
            return jax.lax.fori_loop(0, GROUP, one, carry, unroll=not self._launch.interpret)

        return jax.lax.fori_loop(0, self._groups, group, carry)


def column(x_NxW: Array, lane_1xW: Array) -> Array:
    """Return one position's column of B or C, (N, 1)."""
    return jnp.sum(jnp.where(lane_1xW, x_NxW, 0), axis=1, keepdims=True)
