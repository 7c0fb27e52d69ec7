"""How the Mosaic GPU kernels cut arrays into blocks, and which thread holds which elements.

Arrays have the axes G, B, L, E, N, with G sets of parameters (the two directions of a layer, or
mapped copies) and B rows. One warpgroup has one row, one set and a block of channels, and scans
chunk after chunk of positions. A chunk's inputs are copied into shared memory, before they are
needed if the plan says so.

States are stored in planes, (N / S, E, S), so that a plane's block of channels covers the 128
threads once or twice, and each thread has four neighbouring states of a channel in each plane.
Loads and stores of states then have 16 bytes per thread and no bank conflicts, and a sum over
states is mostly inside a thread. Sums over channels would need all warps at every position. So they
are computed for a whole chunk from shared memory, where each warp has positions of its own.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

# Before 0.11 a load must have an index, later it must have none.
_ALL: tuple[Any, ...] = ((),) if jax.__version_info__ < (0, 11) else ()
_VECTOR = 4  # neighbouring elements of a thread: 16 bytes of float32


@dataclass(frozen=True)
class Blocks:
    """The sizes of one launch.

    Attributes:
        sets: G.
        rows: B.
        length: L.
        channels: E.
        states: N, an even number of planes.
        block: channels of a block: 32, 64 or 128.
        chunk: positions of a chunk; ``chunk * block`` is a multiple of 512.
        part: positions between the states that are stored for the gradient; chunks are whole parts.
        ahead: chunks in shared memory at a time.
        reverse: for each direction, whether it goes from the last position to the first; set g
            has direction ``g % len(reverse)``.
        interpret: run the kernel as plain JAX, on any machine.
    """

    sets: int
    rows: int
    length: int
    channels: int
    states: int
    block: int
    chunk: int
    part: int
    ahead: int
    reverse: tuple[bool, ...]
    interpret: bool

    @property
    def chunks(self) -> int:
        """The number of chunks of a row."""
        return pl.cdiv(self.length, self.chunk)

    @property
    def channel_blocks(self) -> int:
        """The number of blocks of channels."""
        return pl.cdiv(self.channels, self.block)

    @property
    def programs(self) -> int:
        """The number of programs of the launch."""
        return self.rows * self.sets * self.channel_blocks

    @property
    def plane(self) -> int:
        """S, the states of a plane."""
        return plane_for(self.block)

    @property
    def planes(self) -> int:
        """The number of planes."""
        return self.states // self.plane

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """The shape of a block's states."""
        return self.planes, self.block, self.plane

    @property
    def column_shape(self) -> tuple[int, int]:
        """The shape of one value per state."""
        return self.planes, self.plane

    @property
    def tile_shape(self) -> tuple[int, int]:
        """The shape of one value per position of a chunk and channel of a block."""
        return self.chunk, self.block

    @cached_property
    def state(self) -> Any:
        """The layout of (planes, block, plane) arrays."""
        return _layout(self.plane, (self.planes,))

    @cached_property
    def row(self) -> Any:
        """The layout of one value per channel, (block,), that broadcasts to the states'."""
        return self.state.reduce((0, 2))

    @cached_property
    def column(self) -> Any:
        """The layout of one value per state, (planes, plane), that broadcasts to the states'."""
        return self.state.reduce((1,))

    @cached_property
    def stack(self) -> Any:
        """The layout of (chunk, planes, channels, plane), in which each warp has own positions."""
        positions, *rest = *self._stacked, self.plane
        tiled = partial(plgpu.Layout.TILED, vector_dim=-1)
        if positions == 1:
            tiling = plgpu.Tiling(((4, *rest), (_VECTOR,)))
            return tiled(tiling, warp_dims=(-5,), lane_dims=(-4, -3, -2))
        tiling = plgpu.Tiling(((4 * positions, *rest), (positions, *rest), (_VECTOR,)))
        return tiled(tiling, warp_dims=(-9,), lane_dims=(-5, -4, -3, -2))

    @cached_property
    def columns(self) -> Any:
        """The layout of one value per position and state, (chunk, planes, plane), as in a stack."""
        return self.stack.reduce((2,))

    @property
    def _stacked(self) -> tuple[int, int, int]:
        """The positions, planes and channels that a warp covers in a stack.

        With few channels, the sum over them needs few exchanges between threads. Fewer than cover
        128 bytes of a plane would be bank conflicts.
        """
        planes = 2 if self.planes % 4 else 4
        positions = 2 if planes == 2 and self.chunk % 8 == 0 else 1
        return positions, planes, 32 * _VECTOR // self.plane // planes // positions

    @cached_property
    def tile(self) -> Any:
        """The layout of (chunk, block) tiles."""
        return _layout(self.block)

    @cached_property
    def channel(self) -> Any:
        """The layout of one value per channel that broadcasts to the tiles'."""
        return self.tile.reduce((0,))

    @cached_property
    def position(self) -> Any:
        """The layout of one value per position that broadcasts to the tiles'."""
        return self.tile.reduce((1,))

    def place(self, x: Array, layout: Any) -> Array:
        """Return ``x`` in a layout; an array just read from shared memory is loaded in it."""
        return x if self.interpret else plgpu.layout_cast(x, layout)

    def load(self, ref: Any, at: tuple[Any, ...], layout: Any) -> Array:
        """Return a part of an array, in a layout, from shared memory also by bank conflicts."""
        if self.interpret:
            return ref[at]
        return plgpu.load(ref.at[at], *_ALL, layout=layout, optimized=False)

    def over_states(self, ref: Any) -> Array:
        """Return (planes, block, plane) from a reference to one value per channel."""
        x_E = self.place(ref[...], self.row)
        return self.place(lax.broadcast_in_dim(x_E, self.state_shape, (1,)), self.state)

    def over_channels(self, ref: Any) -> Array:
        """Return (planes, block, plane) from a reference to one value per state."""
        x_PxS = self.place(ref[...], self.column)
        return self.place(lax.broadcast_in_dim(x_PxS, self.state_shape, (0, 2)), self.state)

    def sum_over_states(self, x: Array) -> Array:
        """Return one value per channel, the sum of (planes, block, plane) over the states."""
        return jnp.sum(jnp.sum(x, axis=0), axis=1)

    def sum_over_channels(self, weights: Any, states: Any) -> Array:
        """Return the sum of weights times states over the block's channels, (chunk, planes, plane).

        Args:
            weights: reference to (chunk, block).
            states: reference to (chunk, planes, block, plane).
        """
        rows = self._stacked[-1]
        shape = (self.chunk, self.planes, rows, self.plane)
        total: Any = 0.0
        for first in range(0, self.block, rows):
            channels = pl.ds(first, rows)
            # Weights of two positions are in the same banks.
            weight = self.load(weights, (slice(None), channels), self.stack.reduce((1, 3)))
            weight = self.place(lax.broadcast_in_dim(weight, shape, (0, 2)), self.stack)
            total += weight * self.place(states[:, :, channels, :], self.stack)
        return jnp.sum(total, axis=2)

    def in_states(self, weights: Any, states: Any) -> Array:
        """Return weights times states, (chunk, planes, plane), in ``sum_over_channels``' layout.

        Args:
            weights: reference to (chunk,).
            states: reference to (chunk, planes, plane).
        """
        shape = (self.chunk, *self.column_shape)
        weight = self.place(weights[...], self.stack.reduce((1, 2, 3)))
        weight = self.place(lax.broadcast_in_dim(weight, shape, (0,)), self.columns)
        return weight * self.place(states[...], self.columns)

    def in_float32(self, refs: SimpleNamespace) -> SimpleNamespace:
        """Return refs with B and C in float32; those of other dtypes are converted into scratch.

        This is done once per chunk; otherwise every thread would convert every value that it reads,
        at every position. The caller must ``sync`` before it reads them.
        """
        wide = {}
        for name in ("B", "C"):
            if hasattr(refs, f"{name}_float32"):
                wide[name] = getattr(refs, f"{name}_float32")
                x = self.place(getattr(refs, name)[...], self.columns)
                wide[name][...] = x.astype(jnp.float32)
        return SimpleNamespace(**(vars(refs) | wide))

    def over_chunk(self, x_E: Array) -> Array:
        """Return (chunk, block) from one value per channel, in ``channel`` layout."""
        return self.place(lax.broadcast_in_dim(x_E, self.tile_shape, (1,)), self.tile)

    def over_block(self, x_K: Array) -> Array:
        """Return (chunk, block) from one value per position, in ``position`` layout."""
        return self.place(lax.broadcast_in_dim(x_K, self.tile_shape, (0,)), self.tile)

    def no_states(self) -> Array:
        """Return zeros, (planes, block, plane)."""
        return self.place(jnp.zeros(self.state_shape, jnp.float32), self.state)

    def no_tile(self) -> Array:
        """Return zeros, (chunk, block)."""
        return self.place(jnp.zeros(self.tile_shape, jnp.float32), self.tile)

    def tile_of(self, ref: Any) -> Array:
        """Return the content of a (chunk, block) reference in float32."""
        return self.place(ref[...], self.tile).astype(jnp.float32)

    def sync(self) -> None:
        """Wait for all threads, so that each may read what others wrote to shared memory.

        It also lets what all have read be overwritten. It is not needed if each thread reads only
        what it wrote itself.
        """
        if not self.interpret:
            plgpu.commit_smem()

    def mask(self, positions: Array, place: "Place") -> Array:
        """Return which elements of a tile are valid positions and existing channels."""
        shape = self.tile_shape
        if self.interpret:
            at = [lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)]
        else:
            at = [
                plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=self.tile) for axis in (0, 1)
            ]
        return (at[0] < positions) & (at[1] < self.channels - place.channel * self.block)


@dataclass(frozen=True)
class Place:
    """The set, row and block of channels of a program, and whether it scans backwards."""

    set: Array
    row: Array
    channel: Array
    backwards: bool | Array

    @classmethod
    def of(cls, blocks: Blocks, program: Array) -> "Place":
        """Decode a program's number: blocks of channels vary fastest, then sets, then rows.

        The sets of one row are neighbours, so that arrays that they share are read from memory
        once.
        """
        sets, channel_blocks = jnp.int32(blocks.sets), jnp.int32(blocks.channel_blocks)
        program, channel = lax.div(program, channel_blocks), lax.rem(program, channel_blocks)
        row, g = lax.div(program, sets), lax.rem(program, sets)
        backwards: bool | Array = blocks.reverse[0]
        if len(set(blocks.reverse)) > 1:
            backwards = lax.rem(g, jnp.int32(2)) == int(blocks.reverse[1])
        return cls(g, row, channel, backwards)

    def channels(self, blocks: Blocks) -> Any:
        """Return the slice of the channels."""
        return pl.ds(self.channel * blocks.block, blocks.block)

    def states(self, blocks: Blocks, *chunk: Array) -> tuple[Any, ...]:
        """Return the index in an array (G, B, planes, E, plane), or one with chunks after B."""
        return self.set, self.row, *chunk, slice(None), self.channels(blocks)

    def chunk_at(self, blocks: Blocks, visit: Array) -> Array:
        """Return which chunk of positions is the ``visit``-th in scan order."""
        return flipped(self.backwards, visit, jnp.int32(blocks.chunks))


def flipped(backwards: bool | Array, k: Array, count: Array) -> Array:
    """Return ``k``, counted from the end if the scan goes backwards."""
    if isinstance(backwards, bool):
        return count - 1 - k if backwards else k
    return lax.select(backwards, count - 1 - k, k)


def plane_for(block: int) -> int:
    """Return how many states a plane has, so that a block of channels covers all 128 threads."""
    return max(8, 128 * _VECTOR // block)


def _layout(columns: int, planes: tuple[int, ...] = ()) -> Any:
    """Return the layout of a block with this number of columns and, if given, of planes."""
    groups = 1  # threads that share a row
    while groups < 32 and columns % (2 * groups * _VECTOR) == 0:
        groups *= 2
    rows, width = 32 // groups, groups * _VECTOR
    tiled = partial(plgpu.Layout.TILED, vector_dim=-1)
    if rows == 1:
        tiling = plgpu.Tiling(((*planes, 4, width), (_VECTOR,)))
        return tiled(tiling, warp_dims=(-3,), lane_dims=(-2,))
    tiling = plgpu.Tiling(((*planes, 4 * rows, width), (rows, width), (_VECTOR,)))
    return tiled(tiling, warp_dims=(-5,), lane_dims=(-3, -2))
