"""The description of a Mosaic GPU kernel, and its launch: compiled, or interpreted anywhere."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from selective_scan.gpu.blocks import Blocks, Place
from selective_scan.platforms import lowered_later

Carry = dict[str, Array]

# The kernels have run on a GPU with Lane semantics. Warpgroup, JAX's default since 0.11, is for a
# JAX without Lane; with it JAX 0.12 emits as many barriers, exponentials, products and stores.
_WARPGROUP = plgpu.LoweringSemantics.Warpgroup
_LOWERING = getattr(plgpu.LoweringSemantics, "Lane", _WARPGROUP)


@dataclass(frozen=True)
class Kernel:
    """What one program does: before its first chunk of positions, at each, and after its last.

    The functions get ``refs``, which has the arrays and the scratch by name, the number of the
    program as ``program``, and at a chunk the chunk's place in the loop as ``visit``. An array with
    a block is there at chunks only, as the part in shared memory. The carry is in registers, in
    float32.

    Attributes:
        name: the launch's name, for profilers.
        states: names of carried arrays (planes, block, plane).
        tiles: names of carried arrays (chunk, block): sums over chunks, which ``last`` sums over
            positions.
        channels: names of carried arrays (block,).
        first: from (blocks, refs), returns the first carry.
        chunk: from (blocks, refs, softplus, carry), returns the next carry.
        last: from (blocks, refs, carry), writes the results of the whole row.
    """

    name: str
    states: tuple[str, ...]
    tiles: tuple[str, ...]
    channels: tuple[str, ...]
    first: Callable[[Blocks, SimpleNamespace], Carry]
    chunk: Callable[[Blocks, SimpleNamespace, bool, Carry], Carry]
    last: Callable[[Blocks, SimpleNamespace, Carry], None]


@dataclass(frozen=True)
class Block:
    """Which part of an array a program has in shared memory at a chunk.

    Attributes:
        shape: the part's shape; ``None`` removes an axis, at one index of it.
        index: from (program, visit), returns the index of the part, in units of ``shape``.
    """

    shape: tuple[int | None, ...]
    index: Callable[[Array, Array], tuple[Any, ...]]


# An array of a kernel with its block; an array without a block stays in the GPU's memory.
Input = tuple[Array, Block | None]
Output = tuple[jax.ShapeDtypeStruct, Block | None]


def in_time(blocks: Blocks, sets: int, *, states: bool = False, from_end: bool = False) -> Block:
    """Return the block of a (sets, B, L, E) array at a program's chunk.

    Args:
        blocks: the launch's sizes.
        sets: how many sets the array has; each is for ``blocks.sets // sets`` sets of the launch.
        states: whether the array is (sets, B, L, planes, plane), without channels.
        from_end: whether the kernel goes through the chunks in reverse, as the gradient does.
    """

    def index(program: Array, visit: Array) -> tuple[Any, ...]:
        place = Place.of(blocks, program)
        visit = jnp.int32(blocks.chunks) - 1 - visit if from_end else visit
        g = lax.div(place.set, jnp.int32(blocks.sets // sets))
        at = (g, place.row, place.chunk_at(blocks, visit))
        return (*at, 0, 0) if states else (*at, place.channel)

    widths = blocks.column_shape if states else (blocks.block,)
    return Block((None, None, blocks.chunk, *widths), index)


def partial_in_time(blocks: Blocks) -> Block:
    """Return the block of a gradient's partial sums, (channel blocks x G, B, L, planes, plane)."""

    def index(program: Array, visit: Array) -> tuple[Any, ...]:
        place = Place.of(blocks, program)
        chunk = place.chunk_at(blocks, jnp.int32(blocks.chunks) - 1 - visit)
        part = place.channel * blocks.sets + place.set
        return part, place.row, chunk, 0, 0

    return Block((None, None, blocks.chunk, *blocks.column_shape), index)


def launch(
    kernel: Kernel,
    softplus: bool,
    blocks: Blocks,
    inputs: dict[str, Input],
    outputs: dict[str, Output],
    scratch: dict[str, tuple[int, ...]],
) -> dict[str, Array]:
    """Run a kernel for each row, set and block of channels, over all chunks; return its outputs.

    Scratch is float32 in shared memory, and its content does not outlive a chunk; only the carry
    does.
    """
    specs = {name: block for name, (_, block) in (inputs | outputs).items()}
    shapes = [shape for shape, _ in outputs.values()]
    arrays = [x for x, _ in inputs.values()]
    make = _interpreted if blocks.interpret else _compiled
    kernel_of = make(kernel, softplus, blocks, specs, shapes, scratch)

    def run(*arrays: Array) -> list[Array]:
        # No array here has 64 bits. Where float64 is switched on, plain numbers in the kernels
        # would have them all the same, and could not be combined with the indices of 32 bits.
        with jax.enable_x64(False):
            return kernel_of(*arrays)

    results = run(*arrays) if blocks.interpret else lowered_later("cuda", run, shapes, *arrays)
    return dict(zip(outputs, results, strict=True))


def _compiled(
    kernel: Kernel,
    softplus: bool,
    blocks: Blocks,
    specs: dict[str, Block | None],
    shapes: list[jax.ShapeDtypeStruct],
    scratch: dict[str, tuple[int, ...]],
) -> Callable[..., list[Array]]:
    moving = {name: block for name, block in specs.items() if block is not None}
    reads = [name for name in list(specs)[: len(specs) - len(shapes)] if name in moving]

    def program(*refs: Any) -> None:
        named = dict(zip([*specs, *scratch], refs, strict=True))
        named["program"] = number = lax.axis_index("program")
        whole = SimpleNamespace(**named)

        def spec(name: str) -> pl.BlockSpec:
            block = moving[name]
            # Tiles of one position keep the layout of the memory. By default Warpgroup lowering
            # takes tiles of eight positions, of which a row would have to be a multiple.
            tiling: Callable[..., Any] = plgpu.TilingTransform  # abstract by its types in JAX 0.12
            tile = tiling((1, block.shape[-1] or 1))
            return plgpu.BlockSpec(
                block.shape,
                lambda visit: block.index(number, visit),
                transforms=[tile] if _LOWERING is _WARPGROUP else [],
            )

        def visit(at: tuple[Array], *parts_and_carry: Any) -> Carry:
            *parts, carry = parts_and_carry
            here = named | dict(zip(moving, parts, strict=True)) | {"visit": at[0]}
            return kernel.chunk(blocks, SimpleNamespace(**here), softplus, carry)

        carry = plgpu.emit_pipeline(
            visit,
            grid=(blocks.chunks,),
            in_specs=[spec(name) for name in moving if name in reads],
            out_specs=[spec(name) for name in moving if name not in reads],
            max_concurrent_steps=blocks.ahead,
            init_carry=kernel.first(blocks, whole),
        )(*(named[name] for name in moving))
        kernel.last(blocks, whole, carry)

    return plgpu.kernel(
        program,
        out_type=shapes,
        scratch_types=[plgpu.SMEM(shape, jnp.float32) for shape in scratch.values()],
        grid=(blocks.programs,),
        grid_names=("program",),
        compiler_params=plgpu.CompilerParams(
            # The kernels ``sync`` a few times per chunk, between writes of one thread to shared
            # memory and reads of another. Automatic barriers would be two for every store.
            unsafe_no_auto_barriers=True,
            approx_math=True,  # the hardware's exp2, to 2 ulp; no other function is approximate
            lowering_semantics=_LOWERING,
        ),
        kernel_name=kernel.name,
    )


def _interpreted(
    kernel: Kernel,
    softplus: bool,
    blocks: Blocks,
    specs: dict[str, Block | None],
    shapes: list[jax.ShapeDtypeStruct],
    scratch: dict[str, tuple[int, ...]],
) -> Callable[..., list[Array]]:
    """Return the kernel with the chunks as a second axis of the grid, and the carry in memory."""

    def program(*refs: Any) -> None:
        named = dict(zip([*specs, *scratch], refs, strict=False))
        kept = dict(zip(carried, refs[len(named) :], strict=True))
        here = SimpleNamespace(**named, program=pl.program_id(0), visit=pl.program_id(1))

        def keep(carry: Carry) -> None:
            for name, x in carry.items():
                kept[name][...] = x

        pl.when(here.visit == 0)(lambda: keep(kernel.first(blocks, here)))
        keep(kernel.chunk(blocks, here, softplus, {name: ref[...] for name, ref in kept.items()}))

        @pl.when(here.visit == blocks.chunks - 1)
        def after() -> None:
            kernel.last(blocks, here, {name: ref[...] for name, ref in kept.items()})

    whole = [
        pl.BlockSpec() if b is None else pl.BlockSpec(b.shape, b.index) for b in specs.values()
    ]
    carried: dict[str, tuple[int, ...]] = dict.fromkeys(kernel.states, blocks.state_shape)
    carried |= dict.fromkeys(kernel.tiles, blocks.tile_shape)
    carried |= dict.fromkeys(kernel.channels, (blocks.block,))
    return pl.pallas_call(
        program,
        grid=(blocks.programs, blocks.chunks),
        in_specs=whole[: len(specs) - len(shapes)],
        out_specs=whole[len(specs) - len(shapes) :],
        out_shape=shapes,
        scratch_shapes=[
            plgpu.SMEM(shape, jnp.float32) for shape in (*scratch.values(), *carried.values())
        ],
        interpret=True,
        name=kernel.name,
    )
