"""Cuts time into chunks and keeps nothing but the states between them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def scan_chunks(
    scan: Callable[..., tuple[jax.Array, jax.Array]],
    inputs: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    A_ExN: jax.Array,
    state_BxExN: jax.Array,
    *,
    chunk: int,
    reverse: bool,
) -> tuple[jax.Array, jax.Array]:
    """Run ``scan`` over one chunk of positions after the other.

    Args:
        scan: an implementation, called as ``scan(u, t, A, B, C, state, reverse=...)``.
        inputs: u, t, B and C, (B, L, ...).
        A_ExN: decay rates.
        state_BxExN: the state before the first visited position.
        chunk: positions a chunk; the last chunk is padded with time steps of 0.
        reverse: from the last chunk to the first.
    """
    batch, length, _ = inputs[0].shape
    chunk = min(chunk, length)
    chunks = -(-length // chunk)

    def cut(x_BxLxF: jax.Array) -> jax.Array:
        padded = jnp.pad(x_BxLxF, ((0, 0), (0, chunks * chunk - length), (0, 0)))
        return padded.reshape(batch, chunks, chunk, -1).swapaxes(0, 1)

    @jax.checkpoint  # the gradient runs a chunk again instead of keeping its states
    def visit(h_BxExN: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        u, t, B, C = part
        y, h_BxExN = scan(u, t, A_ExN, B, C, h_BxExN, reverse=reverse)
        return h_BxExN, y

    last, y = jax.lax.scan(visit, state_BxExN, tuple(map(cut, inputs)), reverse=reverse)
    return y.swapaxes(0, 1).reshape(batch, chunks * chunk, -1)[:, :length], last
