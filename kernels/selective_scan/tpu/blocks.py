"""How the TPU kernels cut a scan into blocks, and the one place that calls Pallas.

A program has one row, a block of channels and a chunk of positions; channels are lanes and states
are sublanes. Blocks may reach past the ends of the arrays, in positions and in channels: values
read there are masked and values written there are dropped, so no array is padded.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from selective_scan.arguments import ScanInputs, pauses
from selective_scan.elementwise import LOG2_E

LANES = 128
GROUP = 8  # the sublanes of a register, and the positions of an iteration of the loop over a chunk
# In a wide block, work that is done once per position serves more channels; most of that work is
# moving B and C from lanes to sublanes. Beyond a state of 16 of the 64 registers, little is gained.
_MOST_CHANNELS = 512
_MOST_STATE_REGISTERS = 16
_MOST_POSITIONS = 128  # of a chunk
_MOST_CHUNK_BYTES = 4 * 2**20  # of a chunk's states, which the backward kernel holds in VMEM

Refs = dict[str, Any]


class Options(NamedTuple):
    """The static options of a scan.

    Attributes:
        softplus: whether to apply softplus to the time steps.
        reverse: whether to scan from the last position to the first.
        interpret: run on any backend, slowly.
    """

    softplus: bool
    reverse: bool
    interpret: bool


class Launch(NamedTuple):
    """The sizes of a scan, its blocks and its options.

    Attributes:
        batch: B.
        length: L.
        channels: E.
        states: N.
        block: channels of a program.
        chunk: positions of a chunk.
        options: those of the scan.
        backward: whether the grid goes through the chunks in reverse scan order.
    """

    batch: int
    length: int
    channels: int
    states: int
    block: int
    chunk: int
    options: Options
    backward: bool

    @property
    def grid(self) -> tuple[int, int, int]:
        """The numbers of rows, of blocks of channels and of chunks."""
        blocks = pl.cdiv(self.channels, self.block)
        return self.batch, blocks, pl.cdiv(self.length, self.chunk)

    @property
    def window(self) -> int:
        """The positions (lanes) of a block of B or C: a multiple of the chunk, or all."""
        return min(self.length, LANES)

    def chunk_at(self, step: Any) -> Any:
        """Return the chunk of a step of the grid."""
        return self.grid[2] - 1 - step if self.options.reverse != self.backward else step

    def window_at(self, step: Any) -> Any:
        """Return the window of B and C of a step of the grid."""
        if self.length <= LANES:
            return 0
        # Floor division would ask JAX for the kind of TPU, and most machines have none.
        return self.chunk_at(step) * self.chunk >> (LANES.bit_length() - 1)


def launch_for(inputs: ScanInputs, options: Options, *, backward: bool) -> Launch:
    """Return the launch for these inputs; the forward and the backward pass have equal blocks."""
    batch, length, channels = inputs.u.shape
    states = inputs.A.shape[1]
    registers = pl.cdiv(states, GROUP)  # of a state, for 128 channels
    most = min(LANES * max(1, _MOST_STATE_REGISTERS // registers), _MOST_CHANNELS)
    blocks = pl.cdiv(channels, most)
    block = channels if blocks == 1 else pl.cdiv(pl.cdiv(channels, blocks), LANES) * LANES
    sequences = (inputs.u, inputs.delta, inputs.z)
    tile = max(32 // x.dtype.itemsize for x in sequences if x is not None)
    position_bytes = registers * pl.cdiv(block, LANES) * 4 * GROUP * LANES
    most = max(tile, min(_MOST_POSITIONS, _MOST_CHUNK_BYTES // position_bytes))
    if length > LANES:
        chunk = 1 << (most.bit_length() - 1)  # divides the window
    else:
        chunk = pl.cdiv(pl.cdiv(length, pl.cdiv(length, most)), tile) * tile
    return Launch(batch, length, channels, states, block, chunk, options, backward)


def operands(inputs: ScanInputs, options: Options) -> dict[str, Array]:
    """Return the arrays that the kernels read, by name."""
    batch, length, _ = inputs.u.shape
    lengths_B = jnp.full(batch, length) if inputs.lengths is None else inputs.lengths
    named = {
        "lengths": jnp.minimum(lengths_B, length).astype(jnp.int32)[:, None, None],
        "u": inputs.u,
        "delta": inputs.delta,
        "A": (inputs.A.astype(jnp.float32) * LOG2_E).T,
        # Positions are lanes; if the few states were, most of each tile would be empty, even in
        # HBM.
        "B": inputs.B.swapaxes(1, 2),
        "C": inputs.C.swapaxes(1, 2),
    }
    if inputs.D is not None:
        named["D"] = inputs.D.astype(jnp.float32)[None]
    if inputs.z is not None:
        named["z"] = inputs.z
    if inputs.delta_bias is not None:
        named["bias"] = inputs.delta_bias.astype(jnp.float32)[None]
    if inputs.segment_ids is not None:
        # Padded to whole windows, since a chunk also reads its positions past the row's end.
        pauses_BxL = pauses(inputs.segment_ids, inputs.lengths, options.reverse)
        named["pauses"] = jnp.pad(pauses_BxL, ((0, 0), (0, -length % LANES)))[:, None]
    if inputs.initial_state is not None:
        named["initial"] = inputs.initial_state.astype(jnp.float32).swapaxes(1, 2)
    return named


def call(
    kernel: Callable[[Launch, Refs], None],
    launch: Launch,
    arrays: Mapping[str, Array],
    results: Mapping[str, jax.ShapeDtypeStruct],
    scratch: Mapping[str, tuple[int, ...]],
) -> dict[str, Array]:
    """Run a kernel; return its results by name.

    Args:
        kernel: called as ``kernel(launch, refs)``; ``refs`` has the inputs, results and scratch by
            name.
        launch: the sizes and options of the launch.
        arrays: inputs by name.
        results: shapes and dtypes of the results by name.
        scratch: shapes of float32 arrays in VMEM by name.
    """
    names = [*arrays, *results, *scratch]
    run = pl.pallas_call(
        lambda *refs: kernel(launch, dict(zip(names, refs, strict=True))),
        grid=launch.grid,
        in_specs=[_spec(name, launch) for name in arrays],
        out_specs=[_spec(name, launch) for name in results],
        out_shape=list(results.values()),
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch.values()],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=launch.options.interpret,
        name="selective_scan_backward" if launch.backward else "selective_scan",
    )
    # No array here has 64 bits, and Mosaic does not take indices of 64 bits.
    with jax.enable_x64(False):
        values = run(*arrays.values())
    return dict(zip(results, values, strict=True))


def _spec(name: str, launch: Launch) -> pl.BlockSpec:
    """Return the block of the named array that a program has; ``None`` removes an axis."""
    chunk, states, block, window = launch.chunk, launch.states, launch.block, launch.window
    at, window_at = launch.chunk_at, launch.window_at
    if name == "lengths":  # (B, 1, 1), scalars
        return pl.BlockSpec((None, 1, 1), lambda b, e, i: (b, 0, 0), memory_space=pltpu.SMEM)
    if name == "pauses":  # (B, 1, windows of LANES), scalars
        at_window = lambda b, e, i: (b, 0, window_at(i))  # noqa: E731
        return pl.BlockSpec((None, 1, LANES), at_window, memory_space=pltpu.SMEM)
    if name in ("u", "delta", "z", "y", "dy", "du", "ddelta", "dz"):  # (B, L, E)
        return pl.BlockSpec((None, chunk, block), lambda b, e, i: (b, at(i), e))
    if name in ("B", "C"):  # (B, N, L)
        return pl.BlockSpec((None, states, window), lambda b, e, i: (b, 0, window_at(i)))
    if name in ("dB", "dC"):  # (blocks of channels, B, N, L)
        return pl.BlockSpec((None, None, states, window), lambda b, e, i: (e, b, 0, window_at(i)))
    if name == "A":  # (N, E)
        return pl.BlockSpec((states, block), lambda b, e, i: (0, e))
    if name in ("D", "bias"):  # (1, E)
        return pl.BlockSpec((1, block), lambda b, e, i: (0, e))
    if name in ("dD", "dbias"):  # (B, 1, E)
        return pl.BlockSpec((None, 1, block), lambda b, e, i: (b, 0, e))
    if name == "starts":  # (B, chunks, N, E)
        return pl.BlockSpec((None, None, states, block), lambda b, e, i: (b, at(i), 0, e))
    return pl.BlockSpec((None, states, block), lambda b, e, i: (b, 0, e))  # a state, (B, N, E)


class Chunk:
    """The inputs of a chunk in float32, with 0 at invalid positions, and the loop over the chunk.

    Letters: K positions of a chunk, E channels of a block, W positions of a window.

    Attributes:
        valid_KxE: which elements are valid positions and existing channels.
    """

    def __init__(self, launch: Launch, refs: Refs):
        self._launch, self._refs = launch, refs
        start = launch.chunk_at(pl.program_id(2)) * launch.chunk
        self._length = refs["lengths"][0, 0]
        # The groups that hold a valid position, which are the first ones of the chunk.
        valid = jnp.clip(self._length - start, 0, launch.chunk)
        self._groups = (valid + GROUP - 1) >> (GROUP.bit_length() - 1)

        channel_1xE = jax.lax.broadcasted_iota(jnp.int32, (1, launch.block), 1)
        self._inside_1xE = channel_1xE < launch.channels - pl.program_id(1) * launch.block
        position_KxE = jax.lax.broadcasted_iota(jnp.int32, (launch.chunk, launch.block), 0)
        self.valid_KxE = (position_KxE < valid) & self._inside_1xE

        self._lane_1xW = jax.lax.broadcasted_iota(jnp.int32, (1, launch.window), 1)
        self._window_start = launch.window_at(pl.program_id(2)) * launch.window
        self._first_lane = start - self._window_start

    def channels(self, name: str) -> Array:
        """Return an input with channels, (K, E)."""
        return jnp.where(self.valid_KxE, self._refs[name][...].astype(jnp.float32), 0)

    def collected(self, name: str) -> Array:
        """Return what a loop wrote to scratch, (K, E), with 0 at positions that it left out."""
        return jnp.where(self.valid_KxE, self._refs[name][...], 0)

    def states(self, name: str) -> Array:
        """Return B or C in the whole window, (N, W)."""
        valid_1xW = self._window_start + self._lane_1xW < self._length
        return jnp.where(valid_1xW, self._refs[name][...].astype(jnp.float32), 0)

    def lane_of(self, position: Array) -> Array:
        """Return which lane of the window a position of the chunk is, (1, W), booleans."""
        return self._lane_1xW == self._first_lane + position

    def inside(self, name: str) -> Array:
        """Return a state, or A, with 0 past the last channel, (N, E)."""
        x_NxE = self._refs[name][...]
        if self._launch.channels % self._launch.block == 0:
            return x_NxE
        return jnp.where(self._inside_1xE, x_NxE, 0)

    def time_steps(self) -> tuple[Array, Array]:
        """Return delta + bias and the time steps, (K, E)."""
        raw_KxE = self.channels("delta")
        if "bias" in self._refs:
            raw_KxE += self._refs["bias"][...]
        t_KxE = raw_KxE
        if self._launch.options.softplus:
            t_KxE = jnp.maximum(raw_KxE, 0) + jnp.log1p(jnp.exp(-jnp.abs(raw_KxE)))
        return raw_KxE, jnp.where(self.valid_KxE, t_KxE, 0)

    def decay_time(self, position: Array) -> Array:
        """Return the time by which the state decays at a position, (1, E)."""
        t_1xE = self._refs["t32"][pl.ds(position, 1)]
        if "pauses" in self._refs:
            t_1xE += self._refs["pauses"][0, self._first_lane + position]
        return t_1xE

    def walk(self, visit: Callable[..., Any], carry: Any, *, descending: bool) -> Any:
        """Return the carry after ``carry = visit(position, carry)`` at each position.

        Groups of 8 positions without a valid one are left out.
        """

        def group(i: Array, carry: Any) -> Any:
            first = pl.multiple_of(GROUP * (self._groups - 1 - i if descending else i), GROUP)

            def one(j: Array, carry: Any) -> Any:
                return visit(first + (GROUP - 1 - j if descending else j), carry)

            # An interpreted kernel with unrolled loops would take long to compile.
            unroll = not self._launch.options.interpret
            return jax.lax.fori_loop(0, GROUP, one, carry, unroll=unroll)

        return jax.lax.fori_loop(0, self._groups, group, carry)


def column(x_NxW: Array, lane_1xW: Array) -> Array:
    """Return B or C at one position of a window, (N, 1)."""
    return jnp.sum(jnp.where(lane_1xW, x_NxW, 0), axis=1, keepdims=True)
