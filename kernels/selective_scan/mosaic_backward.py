"""The backward kernels: the chunks in the opposite order, each recomputed from the state before it.

With g the gradient of the state behind a position, x = t u, and w the gradient of C . h:

    g += w C        dC_n = sum_e w h        dB_n = sum_e g x        dx_e = sum_n g B
    q = g (h - x B)                         dt_e = sum_n q A        dA += q t
    g *= exp(t A)
"""

from math import log
from types import SimpleNamespace

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from selective_scan.activations import sigmoid
from selective_scan.mosaic_blocks import Blocks
from selective_scan.mosaic_forward import Chunk, column, time_steps, visit_chunk


def backward(blocks: Blocks, refs: SimpleNamespace, use_softplus: bool) -> None:
    """Compute the gradients of one chunk.

    Inputs: lengths, u, delta, A2, B, C, D, bias, starts, dy and where given z, dlast. Outputs: du,
    ddelta, dB, dC (sums over the block's channels), dA, dD, dbias, dinitial (of the row) and where
    given dz. Scratch: h (chunk, block, states); g, sum_A (block, states); t, x, w, dx, dt (chunk,
    block); sum_D, sum_bias (block).
    """
    chunk = Chunk(blocks, refs, blocks.chunks - 1 - refs.visit)
    place, channels = chunk.place, chunk.channels
    nothing_yet = refs.visit == 0
    pl.when(nothing_yet)(lambda: _clear(blocks, refs, chunk))

    u = jnp.where(chunk.mask, blocks.tile_of(refs.u), 0.0)
    raw, t = time_steps(blocks, refs, chunk, use_softplus)
    dy = jnp.where(chunk.mask, blocks.tile_of(refs.dy), 0.0)
    gated = hasattr(refs, "z")
    if gated:
        z = jnp.where(chunk.mask, blocks.tile_of(refs.z), 0.0)
        gate = sigmoid(z)
        w = dy * z * gate
    else:
        w = dy
    refs.t[...] = t
    refs.x[...] = t * u
    refs.w[...] = w
    blocks.sync()

    def keep(k: jax.Array, position: jax.Array, h: jax.Array) -> None:
        refs.h[k] = h
        if gated:
            C = blocks.over_channels(column(blocks, refs.C, position))
            refs.dx[position] = jnp.sum(h * C, axis=1)  # free until go_back

    at = (place.set, place.row, chunk.visit, channels)
    visit_chunk(blocks, refs, chunk, blocks.load(refs.starts, at, blocks.state), keep)
    D = blocks.over_chunk(blocks.load(refs.D, (place.set, channels), blocks.channel))
    if gated:
        blocks.sync()
        ungated = blocks.tile_of(refs.dx) + D * u
        dz = dy * ungated * gate * (1 + z * (1 - gate))
        refs.dz[...] = jnp.where(chunk.mask, dz, 0.0).astype(refs.dz.dtype)
        blocks.sync()
    go_back(blocks, refs, chunk)
    blocks.sync()
    dx = jnp.where(chunk.mask, blocks.tile_of(refs.dx), 0.0)
    dt = jnp.where(chunk.mask, blocks.tile_of(refs.dt), 0.0) + dx * u
    if use_softplus:
        dt *= sigmoid(raw)
    dt = jnp.where(chunk.mask, dt, 0.0)
    refs.du[...] = (dx * t + w * D).astype(refs.du.dtype)
    refs.ddelta[...] = dt.astype(refs.ddelta.dtype)
    sum_D = blocks.place(refs.sum_D[...], blocks.channel) + jnp.sum(w * u, axis=0)
    sum_bias = blocks.place(refs.sum_bias[...], blocks.channel) + jnp.sum(dt, axis=0)
    blocks.sync()  # several threads hold the same sums
    refs.sum_D[...] = sum_D
    refs.sum_bias[...] = sum_bias
    pl.when(refs.visit == blocks.chunks - 1)(lambda: _write_sums(blocks, refs, chunk))


def go_back(blocks: Blocks, refs: SimpleNamespace, chunk: Chunk) -> None:
    """Walk the chunk's positions from the last visited to the first."""
    A2 = blocks.load(refs.A2, (chunk.place.set, chunk.channels), blocks.state)

    def step(back: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        g, dA = carry
        k = chunk.positions - 1 - back
        position = chunk.position(k)
        t, x, w = (
            blocks.over_states(blocks.place(ref[position], blocks.row))
            for ref in (refs.t, refs.x, refs.w)
        )
        B, C = (blocks.over_channels(column(blocks, ref, position)) for ref in (refs.B, refs.C))
        h = blocks.place(refs.h[k], blocks.state)
        g = g + w * C
        refs.dC[position] = jnp.sum(w * h, axis=0)
        refs.dB[position] = jnp.sum(g * x, axis=0)
        refs.dx[position] = jnp.sum(g * B, axis=1)
        q = g * (h - x * B)
        refs.dt[position] = jnp.sum(q * A2, axis=1) * log(2)
        return g * jnp.exp2(t * A2), dA + q * t

    g, dA = (blocks.place(ref[...], blocks.state) for ref in (refs.g, refs.sum_A))
    g, dA = lax.fori_loop(0, chunk.positions, step, (g, dA))
    refs.g[...] = g
    refs.sum_A[...] = dA


def _clear(blocks: Blocks, refs: SimpleNamespace, chunk: Chunk) -> None:
    place, shape = chunk.place, (blocks.block, blocks.states)
    if hasattr(refs, "dlast"):
        at = (place.set, place.row, chunk.channels)
        refs.g[...] = blocks.load(refs.dlast, at, blocks.state)
    else:
        refs.g[...] = blocks.zeros(blocks.state, shape)
    refs.sum_A[...] = blocks.zeros(blocks.state, shape)
    refs.sum_D[...] = blocks.zeros(blocks.channel, (blocks.block,))
    refs.sum_bias[...] = blocks.zeros(blocks.channel, (blocks.block,))


def _write_sums(blocks: Blocks, refs: SimpleNamespace, chunk: Chunk) -> None:
    at = (chunk.place.set, chunk.place.row, chunk.channels)
    refs.dA[at] = blocks.place(refs.sum_A[...], blocks.state)
    refs.dinitial[at] = blocks.place(refs.g[...], blocks.state)
    refs.dD[at] = blocks.place(refs.sum_D[...], blocks.channel)
    refs.dbias[at] = blocks.place(refs.sum_bias[...], blocks.channel)


def starts_of_gradients(blocks: Blocks, refs: SimpleNamespace, use_softplus: bool) -> None:
    """Compute the gradient of a row's initial state when nothing comes from behind its last.

    Inputs: lengths, delta, A2, C, bias, dy and where given z. Outputs: dinitial. Scratch: g, t, w.
    """
    chunk = Chunk(blocks, refs, blocks.chunks - 1 - refs.visit)
    place, channels = chunk.place, chunk.channels
    _, t = time_steps(blocks, refs, chunk, use_softplus)
    w = jnp.where(chunk.mask, blocks.tile_of(refs.dy), 0.0)
    if hasattr(refs, "z"):
        z = jnp.where(chunk.mask, blocks.tile_of(refs.z), 0.0)
        w *= z * sigmoid(z)
    refs.t[...] = t
    refs.w[...] = w
    blocks.sync()
    A2 = blocks.load(refs.A2, (place.set, channels), blocks.state)

    @pl.when(refs.visit == 0)
    def first_chunk() -> None:
        refs.g[...] = blocks.zeros(blocks.state, (blocks.block, blocks.states))

    def step(back: jax.Array, g: jax.Array) -> jax.Array:
        position = chunk.position(chunk.positions - 1 - back)
        t, w = (
            blocks.over_states(blocks.place(ref[position], blocks.row)) for ref in (refs.t, refs.w)
        )
        C = blocks.over_channels(column(blocks, refs.C, position))
        return jnp.exp2(t * A2) * (g + w * C)

    g = lax.fori_loop(0, chunk.positions, step, blocks.place(refs.g[...], blocks.state))
    refs.g[...] = g
    blocks.sync()  # as in ``ends``: the next chunk's inputs are copied behind this

    @pl.when(refs.visit == blocks.chunks - 1)
    def last_chunk() -> None:
        refs.dinitial[place.set, place.row, channels] = g
