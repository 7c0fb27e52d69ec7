"""The forward kernel: one chunk of time of one row and block of channels.

The recurrence runs in base 2 (the hardware's exponential): decays are exp2(t A2), A2 = A log2(e).
"""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from selective_scan.activations import sigmoid, softplus
from selective_scan.mosaic_blocks import Blocks, Place, flipped


class Chunk:
    """Where a program is in time and channels, and how many positions of its chunk are visited."""

    def __init__(self, blocks: Blocks, refs: SimpleNamespace, visit: jax.Array):
        self.place = place = Place.of(blocks, refs.program)
        self.visit = visit
        first = place.chunk_at(blocks, visit) * blocks.chunk
        self.positions = lax.clamp(0, refs.lengths[place.set, place.row] - first, blocks.chunk)
        self.channels = pl.ds(place.channel * blocks.block, blocks.block)
        self.mask = blocks.mask(self.positions, place)

    def position(self, k: jax.Array) -> jax.Array:
        """Return which position of the chunk is the ``k``-th on the way."""
        return flipped(self.place.backwards, k, self.positions)


def time_steps(
    blocks: Blocks, refs: SimpleNamespace, chunk: Chunk, use_softplus: bool
) -> tuple[jax.Array, jax.Array]:
    """Return delta + bias and the time steps, (chunk, block); steps are 0 where nothing is."""
    bias_E = blocks.load(refs.bias, (chunk.place.set, chunk.channels), blocks.channel)
    raw = blocks.tile_of(refs.delta) + blocks.over_chunk(bias_E)
    return raw, jnp.where(chunk.mask, softplus(raw) if use_softplus else raw, 0.0)


def visit_chunk(
    blocks: Blocks, refs: SimpleNamespace, chunk: Chunk, h: jax.Array, behind: Any
) -> jax.Array:
    """Run the recurrence over the chunk's positions; return the state behind them.

    ``refs.t`` and ``refs.x`` hold the time steps and t u. ``behind(k, position, h)`` is called
    with every state (block, states).
    """
    A2 = blocks.load(refs.A2, (chunk.place.set, chunk.channels), blocks.state)

    def step(k: jax.Array, h: jax.Array) -> jax.Array:
        position = chunk.position(k)
        t = blocks.over_states(blocks.place(refs.t[position], blocks.row))
        x = blocks.over_states(blocks.place(refs.x[position], blocks.row))
        B = blocks.over_channels(column(blocks, refs.B, position))
        h = jnp.exp2(t * A2) * h + x * B
        behind(k, position, h)
        return h

    return lax.fori_loop(0, chunk.positions, step, h)


def column(blocks: Blocks, ref: Any, position: jax.Array) -> jax.Array:
    """Return B or C at a position in float32, one value a state."""
    return blocks.place(ref[position], blocks.column).astype(jnp.float32)


def start(blocks: Blocks, refs: SimpleNamespace, chunk: Chunk) -> jax.Array:
    """Return the state before the chunk: carried over, or at the first chunk the initial one."""
    place, shape = chunk.place, (blocks.block, blocks.states)

    @pl.when(chunk.visit == 0)
    def first_chunk() -> None:
        if hasattr(refs, "initial"):
            at = (place.set, place.row, chunk.channels)
            refs.h[...] = blocks.load(refs.initial, at, blocks.state)
        else:
            refs.h[...] = blocks.zeros(blocks.state, shape)

    return blocks.place(refs.h[...], blocks.state)


def forward(blocks: Blocks, refs: SimpleNamespace, use_softplus: bool) -> None:
    """Compute y, the last state and, for the gradient, the state before each chunk.

    Inputs: lengths, u, delta, A2, B, C, D, bias and where given z, initial. Outputs: y, last and
    where asked for starts. Scratch: h (block, states); t, x, read (chunk, block).
    """
    chunk = Chunk(blocks, refs, refs.visit)
    place, channels = chunk.place, chunk.channels
    u = jnp.where(chunk.mask, blocks.tile_of(refs.u), 0.0)
    _, t = time_steps(blocks, refs, chunk, use_softplus)
    refs.t[...] = t
    refs.x[...] = t * u
    blocks.sync()
    h = start(blocks, refs, chunk)
    if hasattr(refs, "starts"):
        refs.starts[place.set, place.row, chunk.visit, channels] = h

    def read(k: jax.Array, position: jax.Array, h: jax.Array) -> None:
        C = blocks.over_channels(column(blocks, refs.C, position))
        refs.read[position] = jnp.sum(h * C, axis=1)

    h = visit_chunk(blocks, refs, chunk, h, read)
    refs.h[...] = h
    blocks.sync()
    D_E = blocks.load(refs.D, (place.set, channels), blocks.channel)
    y = blocks.tile_of(refs.read) + blocks.over_chunk(D_E) * u
    if hasattr(refs, "z"):
        z = blocks.tile_of(refs.z)
        y *= z * sigmoid(z)
    refs.y[...] = jnp.where(chunk.mask, y, 0.0).astype(refs.y.dtype)

    @pl.when(chunk.visit == blocks.chunks - 1)
    def last_chunk() -> None:
        refs.last[place.set, place.row, channels] = h


def ends(blocks: Blocks, refs: SimpleNamespace, use_softplus: bool) -> None:
    """Compute the state behind a row that starts from 0, and the sum of its time steps.

    Inputs: lengths, u, delta, A2, B, bias. Outputs: last, total. Scratch: h, t, x, sum (block).
    """
    chunk = Chunk(blocks, refs, refs.visit)
    place, channels = chunk.place, chunk.channels
    _, t = time_steps(blocks, refs, chunk, use_softplus)
    refs.t[...] = t
    refs.x[...] = jnp.where(chunk.mask, t * blocks.tile_of(refs.u), 0.0)
    blocks.sync()
    h = visit_chunk(blocks, refs, chunk, start(blocks, refs, chunk), lambda *_: None)
    refs.h[...] = h

    @pl.when(chunk.visit == 0)
    def first_chunk() -> None:
        refs.sum[...] = blocks.zeros(blocks.channel, (blocks.block,))

    total = blocks.place(refs.sum[...], blocks.channel) + jnp.sum(t, axis=0)
    # Several threads hold the same sums. And nothing may read the chunk's inputs behind this: no
    # output is stored from shared memory here, so nothing else holds back the next chunk's copy.
    blocks.sync()
    refs.sum[...] = total

    @pl.when(chunk.visit == blocks.chunks - 1)
    def last_chunk() -> None:
        refs.last[place.set, place.row, channels] = h
        refs.total[place.set, place.row, channels] = total
