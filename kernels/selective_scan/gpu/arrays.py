"""A scan's arrays as the kernels read them: padded, cut into segments of time, with their blocks.

All arrays here have the set as their first axis; its size is G, or S for "G, or 1 if shared". "E
padded" is E rounded up to whole blocks of channels, "N padded" N rounded up to whole planes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from math import log

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from selective_scan.arguments import ScanInputs, pauses, valid_mask
from selective_scan.gpu.blocks import Blocks, plane_for
from selective_scan.gpu.kernel import Input, Kernel, Output, in_time, launch, partial_in_time
from selective_scan.gpu.plans import Plan, plan_for, segments_for
from selective_scan.xla import joined


@dataclass(frozen=True)
class Options:
    """The static options of a scan.

    Attributes:
        softplus: whether to apply softplus to the time steps.
        reverse: for each direction, whether it starts at the last position; set g has direction g
            modulo the number of directions.
        interpret: run the kernels as plain JAX, on any machine.
        plan: block sizes; by default those of the table in ``gpu.plans``.
        segments: the number of segments of time that run in parallel; by default the shape decides.
        last: whether to return the last states.
    """

    softplus: bool
    reverse: tuple[bool, ...]
    interpret: bool = False
    plan: Plan | None = None
    segments: int | None = None
    last: bool = True


class Cut:
    """The sizes of one launch, and its arrays as the kernels read them.

    Arrays without a time axis are accessed directly in the GPU's memory, and have their channels
    padded to whole blocks. Arrays with a time axis are copied by the hardware (TMA), which ignores
    what is past their end but needs channels padded to 16 bytes.

    Args:
        inputs: those of the scan.
        options: those of the scan.
        parts: the chunks of the plan that the launch has in one chunk, if rows are as long.
        ahead: overrides that of the plan.
        beside: further arrays with the set as their first axis. The launch has as many sets as the
            array that has the most.
    """

    def __init__(
        self,
        inputs: ScanInputs,
        options: Options,
        *,
        parts: int = 1,
        ahead: int | None = None,
        beside: Iterable[Array | None] = (),
    ):
        self.inputs, self.options = inputs, options
        _, self.rows, self.length, self.channels = inputs.u.shape
        self.sets = max(len(x) for x in (*inputs, *beside) if x is not None)
        self.states = inputs.A.shape[-1]
        plan = options.plan or plan_for(self.states)
        if plan.chunk > plan.block:  # the backward kernel stores a chunk's sums in a block's row
            raise ValueError(f"{plan}: chunk must be at most block")
        programs = self.sets * self.rows * pl.cdiv(self.channels, plan.block)
        self.segments = options.segments or segments_for(programs, self.length, plan.chunk)
        length = pl.cdiv(self.length, self.segments)
        self.padded_channels = self.channels + -self.channels % 8
        self.blocks = Blocks(
            sets=self.sets,
            rows=self.rows * self.segments,
            length=length,
            channels=self.channels,
            # At least two planes, though up to 8 states would fit into one: JAX 0.10 cannot slice
            # the channels of a single plane.
            states=self.states + -self.states % (2 * plane_for(plan.block)),
            block=plan.block,
            chunk=plan.chunk * min(parts, pl.cdiv(length, plan.chunk)),
            part=plan.chunk,
            ahead=ahead or plan.ahead,
            reverse=options.reverse,
            interpret=options.interpret,
        )

    def run(
        self,
        kernel: Kernel,
        inputs: dict[str, Input],
        outputs: dict[str, Output],
        scratch: dict[str, tuple[int, ...]],
    ) -> dict[str, Array]:
        """Launch a kernel; see ``kernel.launch``.

        B and C of another dtype than float32 get scratch in which they are converted.
        """
        scratch = scratch | {
            f"{name}_float32": (self.blocks.chunk, *self.blocks.column_shape)
            for name in ("B", "C")
            if name in inputs and inputs[name][0].dtype != jnp.float32
        }
        return launch(kernel, self.options.softplus, self.blocks, inputs, outputs, scratch)

    def operands(self, *names: str, from_end: bool = False) -> dict[str, Input]:
        """Return the named inputs that were given, each with its block.

        The lengths, and with ``segment_ids`` the pauses, are always among them, since all kernels
        read them. D and bias are zeros if they were not given: kernels without them would not be
        faster. ``from_end`` is as for ``kernel.in_time``.
        """
        arrays: dict[str, Input] = {"lengths": (self.lengths(), None)}
        if self.inputs.segment_ids is not None:
            arrays["pauses"] = (self.pauses(self.inputs.segment_ids), None)
        for name in names:
            x = getattr(self.inputs, {"A2": "A", "bias": "delta_bias"}.get(name, name))
            if name in ("B", "C"):
                spec = in_time(self.blocks, len(x), states=True, from_end=from_end)
                x = self.in_time(x, self.blocks.states)
                arrays[name] = (x.reshape(*x.shape[:-1], *self.blocks.column_shape), spec)
            elif name in ("D", "bias"):
                arrays[name] = (self.per_channel(x), None)
            elif name == "A2":
                arrays[name] = (self.in_planes(self.decay_rates()), None)
            elif x is not None:
                spec = in_time(self.blocks, len(x), from_end=from_end)
                arrays[name] = (self.in_time(x, self.padded_channels), spec)
        return arrays

    # Conversions of arrays to and from the kernels' layouts.

    def in_time(self, x: Array, width: int) -> Array:
        """Return (S, B, L, F) as (S, B segments, L / segments, width), padded with zeros."""
        time = self.segments * self.blocks.length - self.length
        x = jnp.pad(x, ((0, 0), (0, 0), (0, time), (0, width - x.shape[-1])))
        return x.reshape(len(x), self.blocks.rows, self.blocks.length, width)

    def whole(self, x: Array, width: int | None = None) -> Array:
        """Return (G, B segments, L stored, F) as (G, B, L, E), or (G, B, L, width): no padding."""
        x = x[:, :, : self.blocks.length]
        x = x.reshape(self.sets, self.rows, -1, x.shape[-1])
        return x[:, :, : self.length, : width or self.channels]

    def over_channel_blocks(self, x: Array) -> Array:
        """Return the sum over blocks of channels, (G, B segments, L stored, N padded)."""
        return jnp.sum(x.reshape(-1, self.sets, *x.shape[1:3], self.blocks.states), axis=0)

    def where_valid(self, x: Array) -> Array:
        """Return (G, B segments, L stored, N) with zeros at invalid positions."""
        given = self.inputs.lengths is not None
        inside = valid_mask(self.lengths() if given else None, x.shape[2])
        return x if inside is None else jnp.where(inside[..., None], x, 0)

    def lengths(self) -> Array:
        """Return the number of valid positions of each row and segment, (G, B segments), int32."""
        given = self.inputs.lengths
        lengths = jnp.full((1, self.rows), self.length) if given is None else given
        first = jnp.arange(self.segments) * self.blocks.length
        here = jnp.clip(lengths[..., None] - first, 0, self.blocks.length).astype(jnp.int32)
        sets = (self.sets, self.rows, self.segments)
        here = jnp.broadcast_to(jnp.repeat(here, self.sets // len(here), axis=0), sets)
        return here.reshape(self.sets, -1)

    def pauses(self, segment_ids: Array) -> Array:
        """Return ``arguments.pauses``, padded to whole chunks: (G, B segments, chunks x chunk)."""
        ids, lengths = jax.tree.map(
            lambda x: jnp.repeat(x, self.sets // len(x), axis=0),
            (segment_ids, self.inputs.lengths),
        )
        of = partial(pauses, ids, lengths)
        each = jnp.where(self._backwards[:, None, None], of(True), of(False))
        each = self.in_time(each[..., None], 1)[..., 0]
        rest = self.blocks.chunks * self.blocks.chunk - self.blocks.length
        return jnp.pad(each, ((0, 0), (0, 0), (0, rest)))

    def decay_rates(self) -> Array:
        """Return the decay rates in base 2, A log2(e), (G, E padded, N padded), float32."""
        x = self.inputs.A.astype(jnp.float32) / log(2)
        x = jnp.repeat(x, self.sets // len(x), axis=0)
        return self._pad_states(x)

    def per_channel(self, x: Array | None) -> Array:
        """Return D or the bias, (G, E padded), float32."""
        if x is None:
            return jnp.zeros((self.sets, self._block_channels), jnp.float32)
        x = jnp.repeat(x.astype(jnp.float32), self.sets // len(x), axis=0)
        return jnp.pad(x, ((0, 0), (0, self._block_channels - self.channels)))

    def state_array(self, x: Array) -> Array:
        """Return states (S, B, E, N) as (G, B, E padded, N padded), float32."""
        x = jnp.repeat(x.astype(jnp.float32), self.sets // len(x), axis=0)
        return self._pad_states(x)

    def in_planes(self, x: Array) -> Array:
        """Return states (..., E padded, N padded) as (..., planes, E padded, plane)."""
        x = x.reshape(*x.shape[:-1], *self.blocks.column_shape)
        return jnp.moveaxis(x, -2, -3)

    def from_planes(self, x: Array) -> Array:
        """Return (..., planes, E padded, plane) as (..., E padded, N padded)."""
        x = jnp.moveaxis(x, -3, -2)
        return x.reshape(*x.shape[:-2], -1)

    def _pad_states(self, x: Array) -> Array:
        channels = self._block_channels - self.channels
        padding = [(0, 0)] * (x.ndim - 2) + [(0, channels), (0, self.blocks.states - self.states)]
        return jnp.pad(x, padding)

    @property
    def _block_channels(self) -> int:
        return self.blocks.channel_blocks * self.blocks.block

    @property
    def _state(self) -> tuple[int, int, int]:
        return self.blocks.planes, self._block_channels, self.blocks.plane

    # Shapes of outputs, with their blocks.

    def in_time_shape(self, dtype: jnp.dtype, *, from_end: bool = False) -> Output:
        """Return y or a gradient of u, delta or z: (G, B segments, L stored, E to 16 bytes)."""
        blocks = self.blocks
        length = self._stored_length(self.padded_channels, blocks.block)
        shape = (self.sets, blocks.rows, length, self.padded_channels)
        return jax.ShapeDtypeStruct(shape, dtype), in_time(blocks, self.sets, from_end=from_end)

    def partial_shape(self) -> Output:
        """Return a gradient of B or C, summed over each block of channels: (blocks x G, ...)."""
        blocks = self.blocks
        length = self._stored_length(blocks.states, blocks.states)
        parts = blocks.channel_blocks * self.sets
        shape = (parts, blocks.rows, length, *blocks.column_shape)
        return jax.ShapeDtypeStruct(shape, jnp.float32), partial_in_time(blocks)

    def _stored_length(self, width: int, part: int) -> int:
        """Return how many positions an output has in memory for each row and segment ("L stored").

        If a program's part of a chunk is contiguous in memory, JAX stores it without regard for the
        end of the row. The last chunk would then overwrite the first positions of the next row, so
        such outputs have whole chunks.
        """
        whole_chunks = self.blocks.chunks * self.blocks.chunk
        return whole_chunks if width == part else self.blocks.length

    def tiles_shape(self, dtype: jnp.dtype) -> Output:
        """Return a value per position and channel: (G, B segments, chunks, chunk, E padded)."""
        blocks = self.blocks
        shape = (self.sets, blocks.rows, blocks.chunks, blocks.chunk, self._block_channels)
        return jax.ShapeDtypeStruct(shape, dtype), None

    def states_shape(self) -> Output:
        """Return states: (G, B segments, planes, E padded, plane)."""
        shape = (self.sets, self.blocks.rows, *self._state)
        return jax.ShapeDtypeStruct(shape, jnp.float32), None

    def starts_shape(self) -> Output:
        """Return the state before each part: (G, B segments, parts, planes, E padded, plane)."""
        blocks = self.blocks
        parts = blocks.chunks * (blocks.chunk // blocks.part)
        shape = (self.sets, blocks.rows, parts, *self._state)
        return jax.ShapeDtypeStruct(shape, jnp.float32), None

    def channels_shape(self) -> Output:
        """Return a value per row and channel: (G, B segments, E padded)."""
        shape = (self.sets, self.blocks.rows, self._block_channels)
        return jax.ShapeDtypeStruct(shape, jnp.float32), None

    # Segments.

    def between(self, ends: Array, totals: Array, edge: Array | None, *, from_end: bool) -> Array:
        """Return the states between segments, (G, B segments, planes, E padded, plane)."""
        ends, totals = self._by_segment(self.from_planes(ends)), self._by_segment(totals)
        backwards = self._backwards ^ from_end
        states = between_segments(ends, totals, self.decay_rates(), edge, backwards)
        return self.in_planes(states.reshape(self.sets, self.blocks.rows, *states.shape[3:]))

    def outermost(self, x: Array, *, from_end: bool) -> Array:
        """Return the states of the segment that each row scans last, (G, B, E, N)."""
        x = self._by_segment(self.from_planes(x))
        x = _in_order(x, self._backwards ^ from_end)[:, :, -1]
        return x[:, :, : self.channels, : self.states]

    def _by_segment(self, x: Array) -> Array:
        return x.reshape(self.sets, self.rows, self.segments, *x.shape[2:])

    @property
    def _backwards(self) -> Array:
        return jnp.resize(jnp.array(self.blocks.reverse), (self.sets,))


# A few long rows are cut into segments of time that run in parallel. A segment that starts from
# another state than 0 ends in the state in which it would end from 0, plus the start decayed by
# exp(A times the sum of the segment's time steps). The same holds for the gradients, backwards.


def between_segments(
    ends: Array, totals: Array, A2: Array, edge: Array | None, backwards: Array
) -> Array:
    """Return the state in which each segment starts, (G, B, T, E, N).

    Args:
        ends: the state in which each of T segments ends if it starts from 0, (G, B, T, E, N).
        totals: the sum of each segment's time steps, (G, B, T, E).
        A2: decay rates in base 2, (G, E, N).
        edge: the state in which the first segment starts, (G, B, E, N); zeros if ``None``.
        backwards: whether a set goes from the last segment to the first, (G,).
    """
    edge = jnp.zeros_like(ends[:, :, 0]) if edge is None else edge
    ends, totals = (_in_order(x, backwards) for x in (ends, totals))
    decays = jnp.exp2(totals[..., None] * A2[:, None, None])
    ends = ends.at[:, :, 0].add(decays[:, :, 0] * edge)
    _, after = lax.associative_scan(joined, (decays, ends), axis=2)
    return _in_order(jnp.concatenate([edge[:, :, None], after[:, :, :-1]], axis=2), backwards)


def _in_order(x: Array, backwards: Array) -> Array:
    """Return (G, B, T, ...) with the segments in scan order, or from scan order in that of time."""
    return jnp.where(backwards.reshape(-1, *[1] * (x.ndim - 1)), jnp.flip(x, axis=2), x)
