"""One position after the other, recomputing: only the states between chunks are kept."""

import jax

from selective_scan import sequential
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
    """Return C . h at every position, (B, L, E), and the last state, (B, E, N)."""
    inputs = (u_BxLxE, t_BxLxE, B_BxLxN, C_BxLxN)
    return scan_chunks(sequential.scan, inputs, A_ExN, state_BxExN, chunk=16, reverse=reverse)
