"""All positions at once, by ``lax.associative_scan``: O(log L) deep, several (B, L, E, N) large."""

import jax
import jax.numpy as jnp
from jax import Array


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
    decay_BxLxExN = jnp.exp(t_BxLxE[..., None] * A_ExN)
    input_BxLxExN = (t_BxLxE * u_BxLxE)[..., None] * B_BxLxN[:, :, None]
    first = -1 if reverse else 0
    # The initial state is what the first visited position decays.
    input_BxLxExN = input_BxLxExN.at[:, first].add(decay_BxLxExN[:, first] * state_BxExN)
    h_BxLxExN = states(reverse, decay_BxLxExN, input_BxLxExN)
    y_BxLxE = jnp.einsum("blen,bln->ble", h_BxLxExN, C_BxLxN, precision="highest")
    return y_BxLxE, h_BxLxExN[:, 0 if reverse else -1]


def states(reverse: bool, decay_BxLxExN: Array, input_BxLxExN: Array) -> Array:
    """Return h_l = decay_l h_before + input_l at every position, (B, L, E, N), from a state of 0.

    As the solution of a linear system it has derivatives of its own: forward mode is the same
    recurrence once more, the gradient that recurrence the other way round. JAX's own gradient
    would go back through every level of the tree and keep them all.
    """

    def solve(reverse: bool, decay: Array, inputs: Array) -> Array:
        return jax.lax.associative_scan(_join, (decay, inputs), axis=1, reverse=reverse)[1]

    return jax.lax.custom_linear_solve(
        lambda h: h - decay_BxLxExN * _shifted(h, 1, reverse),
        input_BxLxExN,
        lambda _, inputs: solve(reverse, decay_BxLxExN, inputs),
        # Going back, a position's state is decayed by the position that was visited after it.
        lambda _, dh: solve(not reverse, _shifted(decay_BxLxExN, -1, reverse), dh),
    )


def _join(near: tuple[Array, Array], far: tuple[Array, Array]) -> tuple[Array, Array]:
    return near[0] * far[0], far[0] * near[1] + far[1]


def _shifted(x_BxLxExN: Array, by: int, reverse: bool) -> Array:
    """Return what the position visited one earlier (``by`` = 1) or one later (-1) has, or 0."""
    if (by == 1) != reverse:
        return jnp.pad(x_BxLxExN[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
    return jnp.pad(x_BxLxExN[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))
