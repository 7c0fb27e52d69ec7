"""The backward kernels: they go through the chunks in reverse and recompute the states of each.

Let g be the gradient of the state after a position, x = t u, w the gradient of C . h, and "through"
the decayed state before the position, exp(t A) h_before. Then, at each position,

    g += w C        dC_n = sum_e w through + B_n sum_e w x
    q = g through   dB_n = sum_e g x        dx_e = sum_n g B
    g *= exp(t A)   dA += q t               dt_e = sum_n q A

The recomputation stores "through" rather than h, since h - x B would lose all digits under strong
decays.
"""

from math import log
from types import SimpleNamespace

import jax.numpy as jnp
from jax import Array, lax

from selective_scan.gpu.blocks import Blocks, Place
from selective_scan.gpu.forward import (
    Chunk,
    parameters,
    sigmoid,
    start,
    time_steps,
    visit,
    with_pauses,
)
from selective_scan.gpu.kernel import Carry, Kernel


def _backward_first(blocks: Blocks, refs: SimpleNamespace) -> Carry:
    carry = {"g": start(blocks, refs, "dlast"), "dA": blocks.no_states()}
    carry |= {"dD": blocks.no_tile(), "dbias": blocks.no_tile()}
    return carry | parameters(blocks, refs, "bias", "D")


def _backward_chunk(
    blocks: Blocks, refs: SimpleNamespace, use_softplus: bool, carry: Carry
) -> Carry:
    """Compute the gradients at a chunk.

    Inputs: lengths, u, delta, A2, B, C, D, bias, starts, dy; optional: pauses, z with ungated,
    dlast. Outputs: du, ddelta; dB and dC, summed over the block's channels; dA, dD and dbias of the
    row; optional: dz, dinitial. Scratch: states (chunk, planes, block, plane); t, x, w, dx, dt
    (chunk, block).
    """
    chunk = Chunk(blocks, refs, blocks.chunks - 1 - refs.visit)
    at = chunk.place.states(blocks, chunk.whole.index)
    h = blocks.load(refs.starts, at, blocks.state)  # early, to hide the latency of the load
    u = jnp.where(chunk.mask, blocks.tile_of(refs.u), 0.0)
    t, slopes = time_steps(blocks, refs, chunk, use_softplus, carry["bias"])
    dy = jnp.where(chunk.mask, blocks.tile_of(refs.dy), 0.0)
    if hasattr(refs, "z"):
        z = jnp.where(chunk.mask, blocks.tile_of(refs.z), 0.0)
        gate = sigmoid(z)
        w = dy * z * gate
        ungated = blocks.load(refs.ungated, at, blocks.tile).astype(jnp.float32)
        dz = dy * ungated * gate * (1 + z * (1 - gate))
        refs.dz[...] = jnp.where(chunk.mask, dz, 0.0).astype(refs.dz.dtype)
    else:
        w = dy
    x = t * u
    refs = blocks.in_float32(refs)
    refs.t[...] = with_pauses(blocks, refs, chunk, t)
    refs.x[...] = x
    refs.w[...] = w
    refs.dt[0, : blocks.chunk] = jnp.sum(w * x, axis=1)  # this scratch is free until ``_go_back``
    blocks.sync()

    def keep(position: Array, through: Array, h: Array) -> None:
        refs.states[position] = through

    visit(blocks, refs, chunk.whole, carry["A2"], h, keep)
    blocks.sync()
    entered = blocks.in_states(refs.dt.at[0, : blocks.chunk], refs.B)
    refs.dC[...] = blocks.sum_over_channels(refs.w, refs.states) + entered
    blocks.sync()
    g, dA = _go_back(blocks, refs, chunk, carry)
    blocks.sync()
    refs.dB[...] = blocks.sum_over_channels(refs.x, refs.states)
    dx = jnp.where(chunk.mask, blocks.tile_of(refs.dx), 0.0)
    dt = jnp.where(chunk.mask, (blocks.tile_of(refs.dt) + dx * u) * slopes, 0.0)
    refs.du[...] = (dx * t + w * blocks.over_chunk(carry["D"])).astype(refs.du.dtype)
    refs.ddelta[...] = dt.astype(refs.ddelta.dtype)
    sums = {"dD": carry["dD"] + w * u, "dbias": carry["dbias"] + dt}
    return carry | {"g": g, "dA": dA} | sums


def _go_back(
    blocks: Blocks, refs: SimpleNamespace, chunk: Chunk, carry: Carry
) -> tuple[Array, Array]:
    """Go through the chunk's valid positions in reverse scan order; return g and dA.

    ``refs.states`` holds "through" at first, and is overwritten by the gradients g.
    """
    A2, whole = carry["A2"], chunk.whole

    def step(back: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        g, dA = carry
        position = whole.position(whole.positions - 1 - back)
        t, w = (blocks.over_states(ref.at[position]) for ref in (refs.t, refs.w))
        B, C = (blocks.over_channels(ref.at[position]) for ref in (refs.B, refs.C))
        through = blocks.place(refs.states[position], blocks.state)
        g = g + w * C
        refs.states[position] = g
        refs.dx[position] = blocks.sum_over_states(g * B)
        q = g * through
        refs.dt[position] = blocks.sum_over_states(q * A2) * log(2)
        return g * jnp.exp2(t * A2), dA + q * t

    return lax.fori_loop(0, whole.positions, step, (carry["g"], carry["dA"]))


def _backward_last(blocks: Blocks, refs: SimpleNamespace, carry: Carry) -> None:
    place = Place.of(blocks, refs.program)
    refs.dA[place.states(blocks)] = carry["dA"]
    if hasattr(refs, "dinitial"):
        refs.dinitial[place.states(blocks)] = carry["g"]
    at = (place.set, place.row, place.channels(blocks))
    refs.dD[at] = jnp.sum(carry["dD"], axis=0)
    refs.dbias[at] = jnp.sum(carry["dbias"], axis=0)


def _arrives_first(blocks: Blocks, refs: SimpleNamespace) -> Carry:
    return {"g": blocks.no_states()} | parameters(blocks, refs, "bias")


def _arrives_chunk(
    blocks: Blocks, refs: SimpleNamespace, use_softplus: bool, carry: Carry
) -> Carry:
    """Compute the gradient of a segment's initial state, with a gradient of 0 for its last state.

    Inputs: lengths, delta, A2, C, bias, dy; optional: pauses, z. Output: dinitial. Scratch: t, w.
    """
    chunk = Chunk(blocks, refs, blocks.chunks - 1 - refs.visit)
    t, _ = time_steps(blocks, refs, chunk, use_softplus, carry["bias"])
    w = jnp.where(chunk.mask, blocks.tile_of(refs.dy), 0.0)
    if hasattr(refs, "z"):
        z = jnp.where(chunk.mask, blocks.tile_of(refs.z), 0.0)
        w *= z * sigmoid(z)
    refs = blocks.in_float32(refs)
    refs.t[...] = with_pauses(blocks, refs, chunk, t)
    refs.w[...] = w
    blocks.sync()
    whole = chunk.whole

    def step(back: Array, g: Array) -> Array:
        position = whole.position(whole.positions - 1 - back)
        t, w = (blocks.over_states(ref.at[position]) for ref in (refs.t, refs.w))
        return jnp.exp2(t * carry["A2"]) * (g + w * blocks.over_channels(refs.C.at[position]))

    g = lax.fori_loop(0, whole.positions, step, carry["g"])
    blocks.sync()  # as in ``ENDS``: the next chunk's inputs are copied after this
    return carry | {"g": g}


def _arrives_last(blocks: Blocks, refs: SimpleNamespace, carry: Carry) -> None:
    refs.dinitial[Place.of(blocks, refs.program).states(blocks)] = carry["g"]


BACKWARD = Kernel(
    name="backward",
    states=("g", "dA", "A2"),
    tiles=("dD", "dbias"),
    channels=("bias", "D"),
    first=_backward_first,
    chunk=_backward_chunk,
    last=_backward_last,
)
ARRIVES = Kernel(
    name="arrives",
    states=("g", "A2"),
    tiles=(),
    channels=("bias",),
    first=_arrives_first,
    chunk=_arrives_chunk,
    last=_arrives_last,
)
