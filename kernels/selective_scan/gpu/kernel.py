"""What a Mosaic GPU kernel is, and how it is launched: compiled, or interpreted on any machine."""

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

# Lane is what has run on a GPU. Warpgroup, JAX's default since 0.11, is for a JAX that has no Lane
# any more; JAX 0.12 makes the same kernel by it, in barriers, exponentials, products and stores.
_WARPGROUP = plgpu.LoweringSemantics.Warpgroup
_LOWERING = getattr(plgpu.LoweringSemantics, "Lane", _WARPGROUP)


@dataclass(frozen=True)
class Kernel:
    """What one program does: before its first chunk of time, at each, and after its last.

    ``refs`` has the arrays by name (those with a block: the part in shared memory, at chunks only),
    the scratch, ``program`` and at chunks ``visit``. What is carried is float32, in registers.

    Attributes:
        name: the launch's name, for profilers.
        states: names of what is carried a state element, (planes, block, plane).
        tiles: likewise, (chunk, block): sums over chunks, which ``last`` sums over their positions.
        channels: likewise, (block,).
        first: from (blocks, refs) to the carry.
        chunk: from (blocks, refs, softplus, carry) to the next carry.
        last: from (blocks, refs, carry), writes what is left.
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
    """Which part of an array a program has in shared memory while it is at a chunk of time.

    Attributes:
        shape: the part's shape; ``None`` for axes of which it is at one place.
        index: from (program, visit) to the part's place, in units of ``shape``.
    """

    shape: tuple[int | None, ...]
    index: Callable[[Array, Array], tuple[Any, ...]]


# A kernel's array with its block; without one it stays in the GPU's memory.
Input = tuple[Array, Block | None]
Output = tuple[jax.ShapeDtypeStruct, Block | None]


def in_time(blocks: Blocks, sets: int, *, states: bool = False, from_end: bool = False) -> Block:
    """Return the block of a (sets, B, L, E) array at a program's chunk.

    Args:
        blocks: the launch's sizes.
        sets: how many sets the array has; one is shared by ``blocks.sets // sets``.
        states: the array is (sets, B, L, planes, plane), without channels.
        from_end: the gradient visits the chunks in the opposite order.
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
    """Return the block of a gradient's partial sums, (channel blocks G, B, L, planes, plane)."""

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
    """Run a kernel for each row, set and block of channels, over all chunks of time.

    Scratch is float32 in shared memory, for one chunk: what lasts is carried.
    """
    specs = {name: block for name, (_, block) in (inputs | outputs).items()}
    shapes = [shape for shape, _ in outputs.values()]
    arrays = [x for x, _ in inputs.values()]
    if blocks.interpret:
        results = _interpreted(kernel, softplus, blocks, specs, shapes, scratch)(*arrays)
    else:
        run = _compiled(kernel, softplus, blocks, specs, shapes, scratch)
        results = lowered_later("cuda", run, shapes, *arrays)
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
            # Tiles of one position leave memory as it is. Left to itself, Warpgroup lowering takes
            # tiles of eight, and a row would have to be whole tiles.
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
            # The kernels have a ``sync`` between what one thread writes to shared memory and what
            # another reads, a few for a chunk; automatic ones would be two for every store.
            unsafe_no_auto_barriers=True,
            approx_math=True,  # the hardware's exp2, 2 ulp; nothing else in here is approximate
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
    """Return the kernel with a grid over chunks too; the carry is in memory between them."""

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
