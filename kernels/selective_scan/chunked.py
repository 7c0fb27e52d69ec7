"""Parallel inside a chunk of time, sequential from chunk to chunk, recomputing in the gradient."""

import jax

from selective_scan import associative
from selective_scan.chunks import scan_chunks


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
    """Return C . h at every position, (B, L, E), and the last state, (B, E, N).

    Memory is that of ``associative`` for one chunk, and one state a chunk.
    """
    inputs = (u_BxLxE, t_BxLxE, B_BxLxN, C_BxLxN)
    return scan_chunks(associative.scan, inputs, A_ExN, state_BxExN, chunk=64, reverse=reverse)
