"""How the TPU kernels cut a scan into blocks, and what they do to a block before their loops.

A program has a row of the batch, a block of channels (the lanes) and a chunk of time; states are
the sublanes. Blocks may reach beyond the arrays, in time and in channels: what they read there is
masked and what they write there is dropped, so no array is padded.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from selective_scan.arguments import ScanInputs

# exp(t A) = exp2(t (A log2 e)): a TPU raises 2 to a power, so the factor goes into A, once.
LOG2_E = math.log2(math.e)

GROUP = 8  # positions of one turn of a loop: the sublanes of a float32 tile
_MOST_POSITIONS = 128  # a chunk, so that one state in so many is kept for the gradient
_STATE_BYTES = 4 * 2**20  # of the states of a chunk, which the gradient holds in VMEM

Refs = dict[str, Any]


class Launch(NamedTuple):
    """The sizes of a scan and how it is cut.

    Attributes:
        batch: rows.
        length: positions.
        channels: E.
        states: N.
        chunk: positions a chunk.
        softplus: whether softplus makes the time steps.
        reverse: whether positions are visited from the last to the first.
        backward: whether the grid walks the chunks against the order of visits.
        interpret: run on any backend, slowly.
    """

    batch: int
    length: int
    channels: int
    states: int
    chunk: int
    softplus: bool
    reverse: bool
    backward: bool
    interpret: bool

    @property
    def lanes(self) -> int:
        """Channels of a block."""
        return min(self.channels, 128)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Rows, blocks of channels, chunks."""
        return (
            self.batch,
            pl.cdiv(self.channels, self.lanes),
            pl.cdiv(self.length, self.chunk),
        )

    def chunk_at(self, step: Any) -> Any:
        """Return which chunk of time a step of the grid has."""
        return self.grid[2] - 1 - step if self.reverse != self.backward else step


def launch_for(
    inputs: ScanInputs, *, softplus: bool, reverse: bool, backward: bool, interpret: bool
) -> Launch:
    """Return the launch for these inputs: equal chunks, so that the last is nearly full."""
    batch, length, channels = inputs.u_BxLxE.shape
    states = inputs.A_ExN.shape[1]
    sequences = (inputs.u_BxLxE, inputs.delta_BxLxE, inputs.B_BxLxN, inputs.C_BxLxN, inputs.z_BxLxE)
    narrow = any(x is not None and x.dtype.itemsize < 4 for x in sequences)
    tile = 2 * GROUP if narrow else GROUP
    most = _STATE_BYTES // (4 * min(channels, 128) * pl.cdiv(states, 8) * 8)
    most = max(tile, min(most, _MOST_POSITIONS) // tile * tile)
    chunk = pl.cdiv(pl.cdiv(length, pl.cdiv(length, most)), tile) * tile
    return Launch(batch, length, channels, states, chunk, softplus, reverse, backward, interpret)


def operands(inputs: ScanInputs) -> dict[str, jax.Array]:
    """Return what the kernels read, by name, channels last."""
    batch, length, _ = inputs.u_BxLxE.shape
    lengths_B = inputs.lengths_B
    if lengths_B is None:
        lengths_B = jnp.full(batch, length)
    named = {
        "lengths": jnp.minimum(lengths_B, length).astype(jnp.int32)[:, None, None],
        "u": inputs.u_BxLxE,
        "delta": inputs.delta_BxLxE,
        "A": (inputs.A_ExN.astype(jnp.float32) * LOG2_E).T,
        "B": inputs.B_BxLxN,
        "C": inputs.C_BxLxN,
    }
    if inputs.D_E is not None:
        named["D"] = inputs.D_E.astype(jnp.float32)[None]
    if inputs.z_BxLxE is not None:
        named["z"] = inputs.z_BxLxE
    if inputs.delta_bias_E is not None:
        named["bias"] = inputs.delta_bias_E.astype(jnp.float32)[None]
    if inputs.initial_state_BxExN is not None:
        named["initial"] = inputs.initial_state_BxExN.astype(jnp.float32).swapaxes(1, 2)
    return named


def call(
    kernel: Callable[[Launch, Refs], None],
    launch: Launch,
    arrays: Mapping[str, jax.Array],
    results: Mapping[str, jax.ShapeDtypeStruct],
    scratch: Mapping[str, tuple[int, ...]],
) -> dict[str, jax.Array]:
    """Run a kernel that gets its blocks by name.

    Args:
        kernel: called as ``kernel(launch, refs)``; ``refs`` holds inputs, results and scratch.
        launch: how the scan is cut.
        arrays: inputs by name.
        results: results by name.
        scratch: shapes of float32 VMEM by name.
    """
    names = [*arrays, *results, *scratch]
    values = pl.pallas_call(
        lambda *refs: kernel(launch, dict(zip(names, refs, strict=True))),
        grid=launch.grid,
        in_specs=[_spec(name, launch) for name in arrays],
        out_specs=[_spec(name, launch) for name in results],
        out_shape=list(results.values()),
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch.values()],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
        ),
        interpret=launch.interpret,
        name="selective_scan_backward" if launch.backward else "selective_scan",
    )(*arrays.values())
    return dict(zip(results, values, strict=True))


def _spec(name: str, launch: Launch) -> pl.BlockSpec:
    """Return which block of the named array a program has."""
    chunk, states, lanes, at = launch.chunk, launch.states, launch.lanes, launch.chunk_at
    if name == "lengths":  # (B, 1, 1), a scalar
        return pl.BlockSpec((None, 1, 1), lambda b, e, i: (b, 0, 0), memory_space=pltpu.SMEM)
    if name in ("u", "delta", "z", "y", "dy", "du", "ddelta", "dz"):  # (B, L, E)
        return pl.BlockSpec((None, chunk, lanes), lambda b, e, i: (b, at(i), e))
    if name in ("B", "C"):  # (B, L, N)
        return pl.BlockSpec((None, chunk, states), lambda b, e, i: (b, at(i), 0))
    if name in ("dB", "dC"):  # (blocks of channels, B, L, N)
        return pl.BlockSpec((None, None, chunk, states), lambda b, e, i: (e, b, at(i), 0))
    if name == "A":  # (N, E)
        return pl.BlockSpec((states, lanes), lambda b, e, i: (0, e))
    if name in ("D", "bias"):  # (1, E)
        return pl.BlockSpec((1, lanes), lambda b, e, i: (0, e))
    if name in ("dD", "dbias"):  # (B, 1, E)
        return pl.BlockSpec((None, 1, lanes), lambda b, e, i: (b, 0, e))
    if name == "starts":  # (B, chunks, N, E)
        return pl.BlockSpec((None, None, states, lanes), lambda b, e, i: (b, at(i), 0, e))
    return pl.BlockSpec((None, states, lanes), lambda b, e, i: (b, 0, e))  # a state, (B, N, E)


class Chunk:
    """What of a program's chunk is visited, and its inputs in float32, 0 where not visited."""

    def __init__(self, launch: Launch, refs: Refs):
        start = launch.chunk_at(pl.program_id(2)) * launch.chunk
        length = refs["lengths"][0, 0]
        shape = (launch.chunk, launch.lanes)
        self._launch, self._refs = launch, refs
        position_Kx1 = start + jax.lax.broadcasted_iota(jnp.int32, (launch.chunk, 1), 0)
        self._visited_Kx1 = position_Kx1 < length
        channel_1xE = jax.lax.broadcasted_iota(jnp.int32, (1, launch.lanes), 1)
        self._inside_1xE = channel_1xE < launch.channels - pl.program_id(1) * launch.lanes
        self.visited_KxE = jnp.broadcast_to(self._visited_Kx1, shape) & self._inside_1xE
        # Groups of positions that hold a visited one; they are the first of the chunk.
        visited = jnp.clip(length - start, 0, launch.chunk)
        self._groups = jax.lax.div(visited + GROUP - 1, GROUP)

    def channels(self, name: str) -> jax.Array:
        """Return a (K, E) input."""
        return jnp.where(self.visited_KxE, self._refs[name][...].astype(jnp.float32), 0)

    def states(self, name: str) -> jax.Array:
        """Return B or C, (K, N)."""
        return self.only_visited(self._refs[name][...].astype(jnp.float32))

    def only_visited(self, x_KxN: jax.Array) -> jax.Array:
        """Return (K, N) values with 0 at positions that are not visited."""
        return jnp.where(self._visited_Kx1, x_KxN, 0)

    def inside(self, x_NxE: jax.Array) -> jax.Array:
        """Return a state, or A, with 0 beyond the last channel."""
        if self._launch.channels % self._launch.lanes == 0:
            return x_NxE
        return jnp.where(self._inside_1xE, x_NxE, 0)

    def time_steps(self) -> tuple[jax.Array, jax.Array]:
        """Return delta + bias and t, (K, E)."""
        raw_KxE = self.channels("delta")
        if "bias" in self._refs:
            raw_KxE += self._refs["bias"][...]
        if not self._launch.softplus:
            return raw_KxE, jnp.where(self.visited_KxE, raw_KxE, 0)
        t_KxE = jnp.maximum(raw_KxE, 0) + jnp.log1p(jnp.exp(-jnp.abs(raw_KxE)))
        return raw_KxE, jnp.where(self.visited_KxE, t_KxE, 0)

    def walk(self, visit: Callable[..., Any], carry: Any, *, descending: bool) -> Any:
        """Return the carry behind ``carry = visit(position, carry)`` over visited positions.

        Positions are slices of length 1. Groups without a visited position are left out.
        """

        def group(i: jax.Array, carry: Any) -> Any:
            first = pl.multiple_of(GROUP * (self._groups - 1 - i if descending else i), GROUP)

            def one(j: jax.Array, carry: Any) -> Any:
                return visit(first + (GROUP - 1 - j if descending else j), carry)

            # Unrolled, an interpreted kernel takes long to compile.
            return jax.lax.fori_loop(0, GROUP, one, carry, unroll=not self._launch.interpret)

        return jax.lax.fori_loop(0, self._groups, group, carry)


def diagonal(states: int) -> jax.Array:
    """Return the (N, N) diagonal, which ``as_column`` and ``as_row`` take."""
    row = jax.lax.broadcasted_iota(jnp.int32, (states, states), 0)
    return row == jax.lax.broadcasted_iota(jnp.int32, (states, states), 1)


def as_column(x_1xN: jax.Array, diagonal_NxN: jax.Array) -> jax.Array:
    """Return a row as a column, (N, 1): lanes to sublanes."""
    return jnp.sum(jnp.where(diagonal_NxN, x_1xN, 0), axis=1, keepdims=True)


def as_row(x_Nx1: jax.Array, diagonal_NxN: jax.Array) -> jax.Array:
    """Return a column as a row, (1, N): sublanes to lanes."""
    return jnp.sum(jnp.where(diagonal_NxN, x_Nx1, 0), axis=0, keepdims=True)
