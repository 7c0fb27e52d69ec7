"""All positions at once, by ``lax.associative_scan``: O(log L) deep, several (B, L, E, N) large."""

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
    decay_BxLxExN = jnp.exp(t_BxLxE[..., None] * A_ExN)
    input_BxLxExN = (t_BxLxE * u_BxLxE)[..., None] * B_BxLxN[:, :, None]
    first = -1 if reverse else 0
    # The initial state is what the first visited position decays.
    input_BxLxExN = input_BxLxExN.at[:, first].add(decay_BxLxExN[:, first] * state_BxExN)

    def join(
        near: tuple[jax.Array, jax.Array], far: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        return near[0] * far[0], far[0] * near[1] + far[1]

    _, h_BxLxExN = jax.lax.associative_scan(
        join, (decay_BxLxExN, input_BxLxExN), axis=1, reverse=reverse
    )
    y_BxLxE = jnp.einsum("blen,bln->ble", h_BxLxExN, C_BxLxN)
    return y_BxLxE, h_BxLxExN[:, 0 if reverse else -1]
