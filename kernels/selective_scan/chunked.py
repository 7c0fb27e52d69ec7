"""Parallel inside a chunk of time, sequential from chunk to chunk, recomputing in the gradient."""

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan import associative

CHUNK = 64


def scan(
    u_BxLxE: Array,
    t_BxLxE: Array,
    A_ExN: Array,
    B_BxLxN: Array,
    C_BxLxN: Array,
    state_BxExN: Array,
    *,
    reverse: bool,
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """Return C . h at every position, (B, L, E), and the last state, (B, E, N).

    Memory is that of ``associative`` for one chunk, and one state a chunk.

    Args:
        u_BxLxE: as in every implementation's core, like the other arrays.
        t_BxLxE: time steps.
        A_ExN: decay rates.
        B_BxLxN: how the input enters the states.
        C_BxLxN: how the states are read.
        state_BxExN: the state before the first visited position.
        reverse: from the last chunk to the first.
        chunk: positions a chunk; the last chunk is padded with time steps of 0.
    """
    batch, length, _ = u_BxLxE.shape
    chunks = -(-length // chunk)
    chunk = -(-length // chunks)  # equal chunks, so that little is padded

    def cut(x_BxLxF: Array) -> Array:
        padded = jnp.pad(x_BxLxF, ((0, 0), (0, chunks * chunk - length), (0, 0)))
        return padded.reshape(batch, chunks, chunk, -1).swapaxes(0, 1)

    @jax.checkpoint  # the gradient runs a chunk again instead of keeping its states
    def visit(h_BxExN: Array, part: tuple[Array, ...]) -> tuple[Array, Array]:
        u, t, B, C = part
        y, h_BxExN = associative.scan(u, t, A_ExN, B, C, h_BxExN, reverse=reverse)
        return h_BxExN, y

    in_time = tuple(map(cut, (u_BxLxE, t_BxLxE, B_BxLxN, C_BxLxN)))
    last, y = jax.lax.scan(visit, state_BxExN, in_time, reverse=reverse)
    return y.swapaxes(0, 1).reshape(batch, chunks * chunk, -1)[:, :length], last
