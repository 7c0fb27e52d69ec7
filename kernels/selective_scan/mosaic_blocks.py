"""What the Mosaic GPU kernels share: how arrays are cut into blocks, and which thread holds what.

Arrays have the axes G, B, L, E, N: G sets of parameters (the two directions of a layer, or mapped
copies), B rows. One warpgroup works on one row, one set and a block of channels, and walks over
time a chunk after the other; the chunks' inputs come into shared memory one ahead of the work.

A 2-D block lies over the 128 threads as it lies in memory: four neighbouring columns a thread,
the threads of a warp on neighbouring rows. Loads and stores are then 16 bytes a thread and free of
bank conflicts, a sum over channels or over states is mostly inside a thread, and a column of B or C
is read once for all the rows that a thread has.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

Kernel = Callable[["Blocks", SimpleNamespace, bool], None]

# Before 0.11 a load must have an index, later it must have none.
_ALL: tuple[Any, ...] = ((),) if jax.__version_info__ < (0, 11) else ()
_VECTOR = 4  # neighbouring elements a thread: 16 bytes of float32


@dataclass(frozen=True)
class Blocks:
    """The sizes of one launch.

    Attributes:
        sets: G.
        rows: B.
        length: L.
        channels: E.
        states: N, a multiple of 8.
        block: channels a block: 32, 64 or 128.
        chunk: positions a chunk; ``chunk * block`` is a multiple of 512.
        ahead: chunks in shared memory at a time.
        reverse: for each direction whether it goes from the last position to the first; set g
            belongs to direction ``g % len(reverse)``.
        interpret: run the kernel as plain JAX, on any machine.
    """

    sets: int
    rows: int
    length: int
    channels: int
    states: int
    block: int
    chunk: int
    ahead: int
    reverse: tuple[bool, ...]
    interpret: bool

    @property
    def chunks(self) -> int:
        """Chunks of time."""
        return pl.cdiv(self.length, self.chunk)

    @property
    def channel_blocks(self) -> int:
        """Blocks of channels."""
        return pl.cdiv(self.channels, self.block)

    @cached_property
    def state(self) -> Any:
        """The layout of (block, states) arrays."""
        return _layout(self.states)

    @cached_property
    def row(self) -> Any:
        """Their rows: one value a channel."""
        return self.state.reduce((1,))

    @cached_property
    def column(self) -> Any:
        """Their columns: one value a state."""
        return self.state.reduce((0,))

    @cached_property
    def tile(self) -> Any:
        """The layout of (chunk, block) tiles."""
        return _layout(self.block)

    @cached_property
    def channel(self) -> Any:
        """One value a channel, as the tiles have it."""
        return self.tile.reduce((0,))

    def place(self, x: jax.Array, layout: Any) -> jax.Array:
        """Return ``x`` in a layout; of a part of shared memory, read that way."""
        return x if self.interpret else plgpu.layout_cast(x, layout)

    def load(self, ref: Any, at: tuple[Any, ...], layout: Any) -> jax.Array:
        """Return a part of an array in the GPU's memory."""
        # "optimized" is about bank conflicts, which only shared memory has.
        if self.interpret:
            return ref[at]
        return plgpu.load(ref.at[at], *_ALL, layout=layout, optimized=False)

    def over_states(self, x_E: jax.Array) -> jax.Array:
        """Return (block, states) from one value a channel, in ``row`` layout."""
        return self.place(lax.broadcast_in_dim(x_E, (self.block, self.states), (0,)), self.state)

    def over_channels(self, x_N: jax.Array) -> jax.Array:
        """Return (block, states) from one value a state, in ``column`` layout."""
        return self.place(lax.broadcast_in_dim(x_N, (self.block, self.states), (1,)), self.state)

    def over_chunk(self, x_E: jax.Array) -> jax.Array:
        """Return (chunk, block) from one value a channel, in ``channel`` layout."""
        return self.place(lax.broadcast_in_dim(x_E, (self.chunk, self.block), (1,)), self.tile)

    def zeros(self, layout: Any, shape: tuple[int, ...]) -> jax.Array:
        """Return float32 zeros."""
        return self.place(jnp.zeros(shape, jnp.float32), layout)

    def tile_of(self, ref: Any) -> jax.Array:
        """Return a (chunk, block) reference's content in float32."""
        return self.place(ref[...], self.tile).astype(jnp.float32)

    def sync(self) -> None:
        """Wait for all threads: what was written to shared memory may be read, and vice versa.

        Not needed where a thread reads back only what it wrote itself.
        """
        if not self.interpret:
            plgpu.commit_smem()

    def mask(self, positions: jax.Array, place: "Place") -> jax.Array:
        """Return which of a tile's elements are there: (chunk, block)."""
        shape = (self.chunk, self.block)
        if self.interpret:
            at = [lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)]
        else:
            at = [
                plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=self.tile) for axis in (0, 1)
            ]
        return (at[0] < positions) & (at[1] < self.channels - place.channel * self.block)


@dataclass(frozen=True)
class Place:
    """Where a program is: its set, row and block of channels."""

    set: jax.Array
    row: jax.Array
    channel: jax.Array
    backwards: bool | jax.Array

    @classmethod
    def of(cls, blocks: Blocks, program: jax.Array) -> "Place":
        """Decode a program's number: blocks of channels fastest, then sets, then rows.

        The sets of one row are neighbours, so that what they share is read from memory once.
        """
        sets, channel_blocks = jnp.int32(blocks.sets), jnp.int32(blocks.channel_blocks)
        program, channel = lax.div(program, channel_blocks), lax.rem(program, channel_blocks)
        row, g = lax.div(program, sets), lax.rem(program, sets)
        backwards: bool | jax.Array = blocks.reverse[0]
        if len(set(blocks.reverse)) > 1:
            backwards = lax.rem(g, jnp.int32(2)) == int(blocks.reverse[1])
        return cls(g, row, channel, backwards)

    def chunk_at(self, blocks: Blocks, visit: jax.Array) -> jax.Array:
        """Return which chunk of time is the ``visit``-th on the way."""
        return flipped(self.backwards, visit, jnp.int32(blocks.chunks))


def flipped(backwards: bool | jax.Array, k: jax.Array, count: jax.Array) -> jax.Array:
    """Return ``k``, counted from the end where the way goes backwards."""
    if isinstance(backwards, bool):
        return count - 1 - k if backwards else k
    return lax.select(backwards, count - 1 - k, k)


@dataclass(frozen=True)
class Block:
    """Which part of an array a program has in shared memory while it is at a chunk of time.

    Attributes:
        shape: the part's shape; ``None`` for axes of which it is at one place.
        index: from (program, visit) to the part's place, in units of ``shape``.
    """

    shape: tuple[int | None, ...]
    index: Callable[[jax.Array, jax.Array], tuple[Any, ...]]


# A kernel's array with its block; without one it stays in the GPU's memory.
Input = tuple[jax.Array, Block | None]
Output = tuple[jax.ShapeDtypeStruct, Block | None]


def in_time(
    blocks: Blocks, sets: int, width: int | None = None, *, from_end: bool = False
) -> Block:
    """Return the block of a (sets, B, L, E) array at a program's chunk, or of (sets, B, L, N).

    Args:
        blocks: the launch's sizes.
        sets: how many sets the array has; one is shared by ``blocks.sets // sets``.
        width: N, for arrays without channels.
        from_end: the gradient visits the chunks in the opposite order.
    """

    def index(program: jax.Array, visit: jax.Array) -> tuple[Any, ...]:
        place = Place.of(blocks, program)
        visit = jnp.int32(blocks.chunks) - 1 - visit if from_end else visit
        g = lax.div(place.set, jnp.int32(blocks.sets // sets))
        at = (g, place.row, place.chunk_at(blocks, visit))
        return (*at, place.channel if width is None else 0)

    return Block((None, None, blocks.chunk, width or blocks.block), index)


def partial_in_time(blocks: Blocks) -> Block:
    """Return the block of a gradient's partial sums, (channel blocks G, B, L, N)."""

    def index(program: jax.Array, visit: jax.Array) -> tuple[Any, ...]:
        place = Place.of(blocks, program)
        chunk = place.chunk_at(blocks, jnp.int32(blocks.chunks) - 1 - visit)
        part = place.channel * blocks.sets + place.set
        return part, place.row, chunk, 0

    return Block((None, None, blocks.chunk, blocks.states), index)


def launch(
    body: Kernel,
    softplus: bool,
    blocks: Blocks,
    inputs: dict[str, Input],
    outputs: dict[str, Output],
    scratch: dict[str, tuple[int, ...]],
) -> dict[str, jax.Array]:
    """Run ``body(blocks, refs, softplus)`` for each program and chunk.

    ``refs`` has the arrays by name (those with a block: the part in shared memory), the scratch,
    which is float32 in shared memory and lasts from chunk to chunk, and ``program`` and ``visit``.
    """
    specs = {name: block for name, (_, block) in (inputs | outputs).items()}
    programs = blocks.rows * blocks.sets * blocks.channel_blocks
    shapes = [shape for shape, _ in outputs.values()]
    run = _interpreted if blocks.interpret else _compiled
    kernel = run(
        lambda refs: body(blocks, SimpleNamespace(**refs), softplus),
        body.__name__, (programs, blocks.chunks), blocks.ahead, specs, shapes, scratch,
    )  # fmt: skip
    return dict(zip(outputs, kernel(*(array for array, _ in inputs.values())), strict=True))


def _compiled(
    body: Callable[[dict[str, Any]], None],
    name: str,
    grid: tuple[int, int],
    ahead: int,
    specs: dict[str, Block | None],
    shapes: list[jax.ShapeDtypeStruct],
    scratch: dict[str, tuple[int, ...]],
) -> Callable[..., list[jax.Array]]:
    arrays = len(specs)
    programs, chunks = grid
    moving = {name: block for name, block in specs.items() if block is not None}
    reads = [name for name in list(specs)[: arrays - len(shapes)] if name in moving]

    def kernel(*refs: Any) -> None:
        named = dict(zip([*specs, *scratch], refs, strict=True))
        program = lax.axis_index("program")

        def spec(name: str) -> pl.BlockSpec:
            block = moving[name]
            return plgpu.BlockSpec(block.shape, lambda visit: block.index(program, visit))

        def visit(at: tuple[jax.Array], *parts: Any) -> None:
            here = dict(zip(moving, parts, strict=True))
            body(named | here | {"program": program, "visit": at[0]})

        plgpu.emit_pipeline(
            visit,
            grid=(chunks,),
            in_specs=[spec(name) for name in moving if name in reads],
            out_specs=[spec(name) for name in moving if name not in reads],
            max_concurrent_steps=ahead,
        )(*(named[name] for name in moving))

    return plgpu.kernel(
        kernel,
        out_type=shapes,
        scratch_types=[plgpu.SMEM(shape, jnp.float32) for shape in scratch.values()],
        grid=(programs,),
        grid_names=("program",),
        compiler_params=plgpu.CompilerParams(
            # The kernels have a ``sync`` between what one thread writes to shared memory and what
            # another reads, a few for a chunk (sums over channels have their own); automatic ones
            # would be two for every store.
            unsafe_no_auto_barriers=True,
            approx_math=True,  # the hardware's exp2, 2 ulp; nothing else in here is approximate
            # Every layout is given: nothing is left to inference, which would have arrays in time
            # be whole tiles of eight positions.
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        kernel_name=name,
    )


def _interpreted(
    body: Callable[[dict[str, Any]], None],
    name: str,
    grid: tuple[int, int],
    ahead: int,
    specs: dict[str, Block | None],
    shapes: list[jax.ShapeDtypeStruct],
    scratch: dict[str, tuple[int, ...]],
) -> Callable[..., list[jax.Array]]:
    def kernel(*refs: Any) -> None:
        named = dict(zip([*specs, *scratch], refs, strict=True))
        body(named | {"program": pl.program_id(0), "visit": pl.program_id(1)})

    blocks = [
        pl.BlockSpec() if b is None else pl.BlockSpec(b.shape, b.index) for b in specs.values()
    ]
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=blocks[: len(specs) - len(shapes)],
        out_specs=blocks[len(specs) - len(shapes) :],
        out_shape=shapes,
        scratch_shapes=[plgpu.SMEM(shape, jnp.float32) for shape in scratch.values()],
        interpret=True,
        name=name,
    )


def _layout(columns: int) -> Any:
    """Return the layout of a 2-D block with so many columns (see above)."""
    groups = 1  # threads on one row
    while groups < 32 and columns % (2 * groups * _VECTOR) == 0:
        groups *= 2
    rows, width = 32 // groups, groups * _VECTOR
    tiled = partial(plgpu.Layout.TILED, vector_dim=-1)
    if rows == 1:
        tiling = plgpu.Tiling(((4, width), (_VECTOR,)))
        return tiled(tiling, warp_dims=(-3,), lane_dims=(-2,))
    tiling = plgpu.Tiling(((4 * rows, width), (rows, width), (_VECTOR,)))
    return tiled(tiling, warp_dims=(-5,), lane_dims=(-3, -2))
