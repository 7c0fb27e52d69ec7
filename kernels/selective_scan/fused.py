"""One chunk of time after the other, recomputing: only the states between chunks are kept."""

import jax
import jax.numpy as jnp

from selective_scan import sequential

_CHUNK = 16  # positions; states kept are L / 16, states recomputed at once are 16


def scan(
    u_BxLxE: jax.Array,
    t_BxLxE: jax.Array,
    A_ExN: jax.Array,
    B_BxLxN: jax.Array,
    C_BxLxN: jax.Array,
    state_BxExN: jax.Array,
    *,
    reverse: bool,
) -> tuple[jax.Array, jax.Array]:
    """Return C . h at every position, (B, L, E), and the last state, (B, E, N)."""
    batch, length, _ = u_BxLxE.shape
    chunks = -(-length // _CHUNK)

    def cut(x_BxLxF: jax.Array) -> jax.Array:
        padded = jnp.pad(x_BxLxF, ((0, 0), (0, chunks * _CHUNK - length), (0, 0)))
        return padded.reshape(batch, chunks, _CHUNK, -1).swapaxes(0, 1)

    @jax.checkpoint
    def visit(h: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        u, t, B, C = chunk
        y, h = sequential.scan(u, t, A_ExN, B, C, h, reverse=reverse)
        return h, y

    inputs = tuple(cut(x) for x in (u_BxLxE, t_BxLxE, B_BxLxN, C_BxLxN))
    last, y = jax.lax.scan(visit, state_BxExN, inputs, reverse=reverse)
    return y.swapaxes(0, 1).reshape(batch, chunks * _CHUNK, -1)[:, :length], last
