"""Scans in plain JAX: sequential, associative, and chunked, which combines the two.

Each takes a ``Recurrence``, in which B and C may be (E, N), and returns C . h at every position,
(B, L, E), and the last state, (B, E, N), in the inputs' dtype.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan.arguments import Recurrence

CHUNK = 64

_einsum = partial(jnp.einsum, precision="highest")


def sequential(inputs: Recurrence, *, reverse: bool) -> tuple[Array, Array]:
    """Scan position by position with ``lax.scan``; the gradient keeps every state."""
    u_BxLxE, dt_BxLxE, A_ExN, B, C, state_BxExN = inputs

    # The gradient recomputes the decays instead of keeping them, too.
    @partial(jax.checkpoint, prevent_cse=False)
    def visit(h_BxExN: Array, at: tuple[Any, ...]) -> tuple[Array, Array]:
        u_BxE, dt_BxE, B_BxN, C_BxN = at
        decay_BxExN = jnp.exp(dt_BxE[..., None] * A_ExN)
        enter_BxExN = B if B_BxN is None else B_BxN[:, None]
        h_BxExN = decay_BxExN * h_BxExN + (dt_BxE * u_BxE)[..., None] * enter_BxExN
        if C_BxN is None:
            return h_BxExN, _einsum("ben,en->be", h_BxExN, C)
        return h_BxExN, _einsum("ben,bn->be", h_BxExN, C_BxN)

    in_time = [x.swapaxes(0, 1) if x.ndim == 3 else None for x in (u_BxLxE, dt_BxLxE, B, C)]
    last, y_LxBxE = jax.lax.scan(visit, state_BxExN, tuple(in_time), reverse=reverse)
    return y_LxBxE.swapaxes(0, 1), last


def associative(inputs: Recurrence, *, reverse: bool) -> tuple[Array, Array]:
    """Scan all positions in parallel, in O(log L) steps, with several (B, L, E, N) arrays."""
    u_BxLxE, dt_BxLxE, A_ExN, B, C, state_BxExN = inputs
    decay_BxLxExN = jnp.exp(dt_BxLxE[..., None] * A_ExN)
    input_BxLxExN = (dt_BxLxE * u_BxLxE)[..., None] * (B if B.ndim == 2 else B[:, :, None])
    first = -1 if reverse else 0
    # The first position that is scanned decays the initial state.
    input_BxLxExN = input_BxLxExN.at[:, first].add(decay_BxLxExN[:, first] * state_BxExN)
    h_BxLxExN = _states(reverse, decay_BxLxExN, input_BxLxExN)
    y_BxLxE = _einsum("blen,en->ble" if C.ndim == 2 else "blen,bln->ble", h_BxLxExN, C)
    return y_BxLxE, h_BxLxExN[:, 0 if reverse else -1]


def _states(reverse: bool, decay_BxLxExN: Array, input_BxLxExN: Array) -> Array:
    """Return h_l = decay_l h_before + input_l at every position, (B, L, E, N), from a state of 0.

    It is written as the solution of a linear system, whose derivatives JAX takes by the recurrence
    itself: in the same direction for tangents, in the opposite one for cotangents. Differentiated
    directly, ``lax.associative_scan`` would keep the arrays of every level of its tree.
    """

    def solve(reverse: bool, decay: Array, inputs: Array) -> Array:
        return jax.lax.associative_scan(joined, (decay, inputs), axis=1, reverse=reverse)[1]

    return jax.lax.custom_linear_solve(
        lambda h: h - decay_BxLxExN * _shifted(h, 1, reverse),
        input_BxLxExN,
        lambda _, inputs: solve(reverse, decay_BxLxExN, inputs),
        # A state's gradient passes through the decay of the position that is scanned after it.
        lambda _, dh: solve(not reverse, _shifted(decay_BxLxExN, -1, reverse), dh),
    )


def joined(near: tuple[Array, Array], far: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the decay and the input of two stretches of positions as one; far is scanned later."""
    return near[0] * far[0], far[0] * near[1] + far[1]


def _shifted(x_BxLxExN: Array, by: int, reverse: bool) -> Array:
    """Return x at the position scanned one earlier (``by`` = 1) or one later (-1), 0 at the end."""
    if (by == 1) != reverse:
        return jnp.pad(x_BxLxExN[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
    return jnp.pad(x_BxLxExN[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))


def chunked(inputs: Recurrence, *, reverse: bool, chunk: int = CHUNK) -> tuple[Array, Array]:
    """Scan in parallel inside a chunk of positions, and sequentially from chunk to chunk.

    It needs the memory of ``associative`` for one chunk, and for one state per chunk, since the
    gradient recomputes each chunk. The last chunk is padded with time steps of 0.
    """
    batch, length, _ = inputs.u.shape
    chunks = -(-length // chunk)
    chunk = -(-length // chunks)  # chunks of equal size need little padding

    def cut(x_BxLxF: Array) -> Array | None:
        if x_BxLxF.ndim == 2:
            return None
        padded = jnp.pad(x_BxLxF, ((0, 0), (0, chunks * chunk - length), (0, 0)))
        return padded.reshape(batch, chunks, chunk, -1).swapaxes(0, 1)

    @jax.checkpoint  # the gradient recomputes a chunk instead of keeping its states
    def visit(h_BxExN: Array, part: tuple[Any, ...]) -> tuple[Array, Array]:
        u, dt, B, C = part
        B, C = inputs.B if B is None else B, inputs.C if C is None else C
        within = Recurrence(u, dt, inputs.A, B, C, h_BxExN)
        y, h_BxExN = associative(within, reverse=reverse)
        return h_BxExN, y

    u, dt, _, B, C, state_BxExN = inputs
    in_time = tuple(map(cut, (u, dt, B, C)))
    last, y = jax.lax.scan(visit, state_BxExN, in_time, reverse=reverse)
    return y.swapaxes(0, 1).reshape(batch, chunks * chunk, -1)[:, :length], last
