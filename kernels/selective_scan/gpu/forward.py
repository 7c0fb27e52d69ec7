"""The forward kernels: over one row and block of channels, a chunk of time after the other.

The recurrence runs in base 2 (the hardware's exponential): decays are exp2(t A2), A2 = A log2(e).
"""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from selective_scan.elementwise import exp_in_base_2, softplus_by
from selective_scan.gpu.blocks import Blocks, Place, flipped
from selective_scan.gpu.kernel import Carry, Kernel


class Chunk:
    """Where a program is in time and channels, and how many positions of its chunk are visited."""

    def __init__(self, blocks: Blocks, refs: SimpleNamespace, visit: Array):
        self.place = place = Place.of(blocks, refs.program)
        self.visit = visit
        self.first = place.chunk_at(blocks, visit) * blocks.chunk
        self.positions = lax.clamp(0, refs.lengths[place.set, place.row] - self.first, blocks.chunk)
        self.mask = blocks.mask(self.positions, place)

    def position(self, k: Array) -> Array:
        """Return which position of the chunk is the ``k``-th on the way."""
        return flipped(self.place.backwards, k, self.positions)


def time_steps(
    blocks: Blocks, refs: SimpleNamespace, chunk: Chunk, use_softplus: bool, bias_E: Array
) -> tuple[Array, Array]:
    """Return delta + bias and the time steps, (chunk, block); steps are 0 where nothing is."""
    raw = blocks.tile_of(refs.delta) + blocks.over_chunk(bias_E)
    steps = softplus_by(exp_in_base_2, raw) if use_softplus else raw
    return raw, jnp.where(chunk.mask, steps, 0.0)


def with_pauses(blocks: Blocks, refs: SimpleNamespace, chunk: Chunk, t: Array) -> Array:
    """Return by how much time each position decays the state before it, (chunk, block)."""
    if not hasattr(refs, "pauses"):
        return t
    at = (chunk.place.set, chunk.place.row, pl.ds(chunk.first, blocks.chunk))
    return t + blocks.over_block(blocks.load(refs.pauses, at, blocks.position))


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)); the compiler's division is the hardware's reciprocal."""
    return 1 / (1 + exp_in_base_2(-x))


def visit_chunk(
    blocks: Blocks, refs: SimpleNamespace, chunk: Chunk, A2: Array, h: Array, after: Any
) -> Array:
    """Run the recurrence over the chunk's positions; return the state after them.

    ``refs.t`` holds the time steps with the pauses, and ``refs.x`` t u. ``after(position, through,
    h)`` is called with every state (planes, block, plane), and what is left of the one before it.
    """

    def step(k: Array, h: Array) -> Array:
        position = chunk.position(k)
        t, x = (blocks.over_states(ref.at[position]) for ref in (refs.t, refs.x))
        through = jnp.exp2(t * A2) * h
        h = through + x * blocks.over_channels(refs.B.at[position])
        after(position, through, h)
        return h

    return lax.fori_loop(0, chunk.positions, step, h)


def parameters(blocks: Blocks, refs: SimpleNamespace, *names: str) -> Carry:
    """Return a program's part of A2, and of bias or D by name, to be carried: read only once."""
    place = Place.of(blocks, refs.program)
    channels = place.channels(blocks)
    A2 = blocks.load(refs.A2, (place.set, slice(None), channels), blocks.state)
    return {"A2": A2} | {
        name: blocks.load(getattr(refs, name), (place.set, channels), blocks.channel)
        for name in names
    }


def start(blocks: Blocks, refs: SimpleNamespace, name: str) -> Array:
    """Return the state that a row starts with, by the name of its array; zeros without one."""
    if not hasattr(refs, name):
        return blocks.no_states()
    place = Place.of(blocks, refs.program)
    return blocks.load(getattr(refs, name), place.states(blocks), blocks.state)


def _forward_first(blocks: Blocks, refs: SimpleNamespace) -> Carry:
    return {"h": start(blocks, refs, "initial")} | parameters(blocks, refs, "bias", "D")


def _forward_chunk(
    blocks: Blocks, refs: SimpleNamespace, use_softplus: bool, carry: Carry
) -> Carry:
    """Compute y, the last state and, for the gradient, the state before each chunk and y ungated.

    Inputs: lengths, u, delta, A2, B, C, D, bias and where given pauses, z, initial. Outputs: y and
    where asked for last, starts, ungated. Scratch: t, x, read (chunk, block).
    """
    chunk = Chunk(blocks, refs, refs.visit)
    u = jnp.where(chunk.mask, blocks.tile_of(refs.u), 0.0)
    _, t = time_steps(blocks, refs, chunk, use_softplus, carry["bias"])
    refs = blocks.in_float32(refs)
    refs.t[...] = with_pauses(blocks, refs, chunk, t)
    refs.x[...] = t * u
    blocks.sync()
    at = chunk.place.states(blocks, chunk.visit)
    if hasattr(refs, "starts"):
        refs.starts[at] = carry["h"]

    def read(position: Array, through: Array, h: Array) -> None:
        C = blocks.over_channels(refs.C.at[position])
        refs.read[position] = blocks.sum_over_states(h * C)

    h = visit_chunk(blocks, refs, chunk, carry["A2"], carry["h"], read)
    blocks.sync()
    y = blocks.tile_of(refs.read) + blocks.over_chunk(carry["D"]) * u
    if hasattr(refs, "ungated"):
        refs.ungated[at] = y.astype(refs.ungated.dtype)
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
    """Compute the state after a row that starts from 0, and the sum of time steps and pauses.

    Inputs: lengths, u, delta, A2, B, bias and where given pauses. Outputs: last, total. Scratch: t,
    x.
    """
    chunk = Chunk(blocks, refs, refs.visit)
    _, t = time_steps(blocks, refs, chunk, use_softplus, carry["bias"])
    refs = blocks.in_float32(refs)
    decayed = with_pauses(blocks, refs, chunk, t)
    refs.t[...] = decayed
    refs.x[...] = jnp.where(chunk.mask, t * blocks.tile_of(refs.u), 0.0)
    blocks.sync()
    h = visit_chunk(blocks, refs, chunk, carry["A2"], carry["h"], lambda *_: None)
    # Nothing may read the chunk's inputs after this: no output is stored from shared memory here,
    # so nothing else holds back the next chunk's copy.
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
