"""The forward kernels: each program scans one row and block of channels, chunk after chunk.

Decays are computed as exp2(t A2) with A2 = A log2(e), since the hardware's exponential has base 2.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from selective_scan.elementwise import exp_in_base_2, softplus_and_slope
from selective_scan.gpu.blocks import Blocks, Place, flipped
from selective_scan.gpu.kernel import Carry, Kernel


@dataclass(frozen=True)
class Part:
    """A part of a chunk, or all of it.

    Attributes:
        index: which part of the row it is, from the first position on.
        first: its first position in the chunk.
        positions: the number of its valid positions.
        backwards: whether they are scanned from the last to the first.
    """

    index: Array
    first: Array | int
    positions: Array
    backwards: bool | Array

    def position(self, k: Array) -> Array:
        """Return which position of the chunk is the ``k``-th in scan order."""
        return self.first + flipped(self.backwards, k, self.positions)


class Chunk:
    """A program's chunk: where it lies, and which of its positions are valid."""

    def __init__(self, blocks: Blocks, refs: SimpleNamespace, visit: Array):
        self.place = place = Place.of(blocks, refs.program)
        index = place.chunk_at(blocks, visit)
        self.first = index * blocks.chunk
        valid = refs.lengths[place.set, place.row] - self.first
        self.whole = Part(index, 0, lax.clamp(0, valid, blocks.chunk), place.backwards)
        self.mask = blocks.mask(self.whole.positions, place)
        self.parts = []  # in scan order
        size, count = blocks.part, blocks.chunk // blocks.part
        for k in range(count):
            at = flipped(place.backwards, jnp.int32(k), jnp.int32(count))
            positions = lax.clamp(0, valid - at * size, size)
            part = Part(index * count + at, at * size, positions, place.backwards)
            self.parts.append(part)


def time_steps(
    blocks: Blocks, refs: SimpleNamespace, chunk: Chunk, use_softplus: bool, bias_E: Array
) -> tuple[Array, Array]:
    """Return the time steps, which are 0 at invalid positions, and softplus' derivative there.

    Both are (chunk, block). The derivative may be anything at invalid positions.
    """
    raw = blocks.tile_of(refs.delta) + blocks.over_chunk(bias_E)
    steps, slopes = raw, jnp.ones_like(raw)
    if use_softplus:
        steps, slopes = softplus_and_slope(exp_in_base_2, raw)
    return jnp.where(chunk.mask, steps, 0.0), slopes


def with_pauses(blocks: Blocks, refs: SimpleNamespace, chunk: Chunk, t: Array) -> Array:
    """Return the times by which the state decays, (chunk, block): time steps plus any pauses."""
    if not hasattr(refs, "pauses"):
        return t
    at = (chunk.place.set, chunk.place.row, pl.ds(chunk.first, blocks.chunk))
    return t + blocks.over_block(blocks.load(refs.pauses, at, blocks.position))


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)); the compiler's division uses the hardware's reciprocal."""
    return 1 / (1 + exp_in_base_2(-x))


def visit(
    blocks: Blocks, refs: SimpleNamespace, part: Part, A2: Array, h: Array, after: Any
) -> Array:
    """Run the recurrence over the part's valid positions; return the state after them.

    ``refs.t`` holds the time steps with the pauses, and ``refs.x`` the products t u.
    ``after(position, through, h)`` is called after every position with the decayed state before it
    and the state after it, both (planes, block, plane).
    """

    def step(k: Array, h: Array) -> Array:
        position = part.position(k)
        t, x = (blocks.over_states(ref.at[position]) for ref in (refs.t, refs.x))
        through = jnp.exp2(t * A2) * h
        h = through + x * blocks.over_channels(refs.B.at[position])
        after(position, through, h)
        return h

    return lax.fori_loop(0, part.positions, step, h)


def parameters(blocks: Blocks, refs: SimpleNamespace, *names: str) -> Carry:
    """Return a program's part of A2, and of the named ones of bias and D.

    They are part of the carry, so that they are read only once.
    """
    place = Place.of(blocks, refs.program)
    channels = place.channels(blocks)
    A2 = blocks.load(refs.A2, (place.set, slice(None), channels), blocks.state)
    return {"A2": A2} | {
        name: blocks.load(getattr(refs, name), (place.set, channels), blocks.channel)
        for name in names
    }


def start(blocks: Blocks, refs: SimpleNamespace, name: str) -> Array:
    """Return a program's part of the named array of states, or zeros if there is no such array."""
    if not hasattr(refs, name):
        return blocks.no_states()
    place = Place.of(blocks, refs.program)
    return blocks.load(getattr(refs, name), place.states(blocks), blocks.state)


def _forward_first(blocks: Blocks, refs: SimpleNamespace) -> Carry:
    return {"h": start(blocks, refs, "initial")} | parameters(blocks, refs, "bias", "D")


def _forward_chunk(
    blocks: Blocks, refs: SimpleNamespace, use_softplus: bool, carry: Carry
) -> Carry:
    """Compute y at a chunk and, for the gradient, the state before each part and y before the gate.

    Inputs: lengths, u, delta, A2, B, C, D, bias; optional: pauses, z, initial. Outputs: y;
    optional: last, starts, ungated. Scratch: t, x (chunk, block).
    """
    chunk = Chunk(blocks, refs, refs.visit)
    u = jnp.where(chunk.mask, blocks.tile_of(refs.u), 0.0)
    t, _ = time_steps(blocks, refs, chunk, use_softplus, carry["bias"])
    refs = blocks.in_float32(refs)
    refs.t[...] = with_pauses(blocks, refs, chunk, t)
    refs.x[...] = t * u
    blocks.sync()

    def read(position: Array, through: Array, h: Array) -> None:
        C = blocks.over_channels(refs.C.at[position])
        # The threads of a channel, which exchange their sums here, have read x, and no others do.
        refs.x[position] = blocks.sum_over_states(h * C)

    h = carry["h"]
    for part in chunk.parts if hasattr(refs, "starts") else [chunk.whole]:
        if hasattr(refs, "starts"):
            refs.starts[chunk.place.states(blocks, part.index)] = h
        h = visit(blocks, refs, part, carry["A2"], h, read)
    blocks.sync()
    y = blocks.tile_of(refs.x) + blocks.over_chunk(carry["D"]) * u
    if hasattr(refs, "ungated"):
        refs.ungated[chunk.place.states(blocks, chunk.whole.index)] = y.astype(refs.ungated.dtype)
    if hasattr(refs, "z"):
        z = blocks.tile_of(refs.z)
        y *= z * sigmoid(z)
    refs.y[...] = jnp.where(chunk.mask, y, 0.0).astype(refs.y.dtype)
    return carry | {"h": h}


def _forward_last(blocks: Blocks, refs: SimpleNamespace, carry: Carry) -> None:
    if hasattr(refs, "last"):
        refs.last[Place.of(blocks, refs.program).states(blocks)] = carry["h"]


def _ends_first(blocks: Blocks, refs: SimpleNamespace) -> Carry:
    carry = {"h": blocks.no_states(), "total": blocks.no_tile()}
    return carry | parameters(blocks, refs, "bias")


def _ends_chunk(blocks: Blocks, refs: SimpleNamespace, use_softplus: bool, carry: Carry) -> Carry:
    """Compute the state in which a segment ends from 0, and the sum of its time steps and pauses.

    Inputs: lengths, u, delta, A2, B, bias; optional: pauses. Outputs: last, total. Scratch: t, x.
    """
    chunk = Chunk(blocks, refs, refs.visit)
    t, _ = time_steps(blocks, refs, chunk, use_softplus, carry["bias"])
    refs = blocks.in_float32(refs)
    decayed = with_pauses(blocks, refs, chunk, t)
    refs.t[...] = decayed
    refs.x[...] = jnp.where(chunk.mask, t * blocks.tile_of(refs.u), 0.0)
    blocks.sync()
    h = visit(blocks, refs, chunk.whole, carry["A2"], carry["h"], lambda *_: None)
    # All threads must be done with the chunk's inputs here: this kernel stores no output from
    # shared memory, so nothing else delays the copy of the next chunk over them.
    blocks.sync()
    return carry | {"h": h, "total": carry["total"] + decayed}


def _ends_last(blocks: Blocks, refs: SimpleNamespace, carry: Carry) -> None:
    place = Place.of(blocks, refs.program)
    refs.last[place.states(blocks)] = carry["h"]
    refs.total[place.set, place.row, place.channels(blocks)] = jnp.sum(carry["total"], axis=0)


FORWARD = Kernel(
    name="forward",
    states=("h", "A2"),
    tiles=(),
    channels=("bias", "D"),
    first=_forward_first,
    chunk=_forward_chunk,
    last=_forward_last,
)
ENDS = Kernel(
    name="ends",
    states=("h", "A2"),
    tiles=("total",),
    channels=("bias",),
    first=_ends_first,
    chunk=_ends_chunk,
    last=_ends_last,
)
