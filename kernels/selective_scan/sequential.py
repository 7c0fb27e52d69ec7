"""One position after the other, by ``lax.scan``; JAX's own gradient keeps every state."""

import jax
import jax.numpy as jnp


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

    def visit(h_BxExN: jax.Array, at: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        u_BxE, t_BxE, B_BxN, C_BxN = at
        h_BxExN = step(h_BxExN, u_BxE, t_BxE, A_ExN, B_BxN)
        return h_BxExN, jnp.einsum("ben,bn->be", h_BxExN, C_BxN)

    in_time = [x.swapaxes(0, 1) for x in (u_BxLxE, t_BxLxE, B_BxLxN, C_BxLxN)]
    last, y_LxBxE = jax.lax.scan(visit, state_BxExN, tuple(in_time), reverse=reverse)
    return y_LxBxE.swapaxes(0, 1), last


def step(
    h_BxExN: jax.Array, u_BxE: jax.Array, t_BxE: jax.Array, A_ExN: jax.Array, B_BxN: jax.Array
) -> jax.Array:
    """Return the state behind one more position: exp(t A) h + t B u."""
    decay_BxExN = jnp.exp(t_BxE[..., None] * A_ExN)
    return decay_BxExN * h_BxExN + (t_BxE * u_BxE)[..., None] * B_BxN[:, None]
