"""One position after the other, by ``lax.scan``; the gradient keeps every position's state."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

_einsum = partial(jnp.einsum, precision="highest")


def scan(
    u_BxLxE: Array,
    t_BxLxE: Array,
    A_ExN: Array,
    B_BxLxN: Array,
    C_BxLxN: Array,
    state_BxExN: Array,
    *,
    reverse: bool,
) -> tuple[Array, Array]:
    """Return C . h at every position, (B, L, E), and the last state, (B, E, N)."""

    # The gradient computes decays again instead of keeping them beside the states.
    @partial(jax.checkpoint, prevent_cse=False)
    def visit(h_BxExN: Array, at: tuple[Array, ...]) -> tuple[Array, Array]:
        u_BxE, t_BxE, B_BxN, C_BxN = at
        decay_BxExN = jnp.exp(t_BxE[..., None] * A_ExN)
        h_BxExN = decay_BxExN * h_BxExN + (t_BxE * u_BxE)[..., None] * B_BxN[:, None]
        return h_BxExN, _einsum("ben,bn->be", h_BxExN, C_BxN)

    in_time = [x.swapaxes(0, 1) for x in (u_BxLxE, t_BxLxE, B_BxLxN, C_BxLxN)]
    last, y_LxBxE = jax.lax.scan(visit, state_BxExN, tuple(in_time), reverse=reverse)
    return y_LxBxE.swapaxes(0, 1), last
