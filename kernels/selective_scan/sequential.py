"""One position after the other, by ``lax.scan``; the gradient keeps every position's state."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

_einsum = partial(jnp.einsum, precision="highest")


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
        return h_BxExN, _einsum("ben,bn->be", h_BxExN, C_BxN)

    in_time = [x.swapaxes(0, 1) for x in (u_BxLxE, t_BxLxE, B_BxLxN, C_BxLxN)]
    last, y_LxBxE = jax.lax.scan(visit, state_BxExN, tuple(in_time), reverse=reverse)
    return y_LxBxE.swapaxes(0, 1), last


@jax.custom_vjp
def step(
    h_BxExN: jax.Array, u_BxE: jax.Array, t_BxE: jax.Array, A_ExN: jax.Array, B_BxN: jax.Array
) -> jax.Array:
    """Return the state behind one more position: exp(t A) h + t B u."""
    decay_BxExN = jnp.exp(t_BxE[..., None] * A_ExN)
    return decay_BxExN * h_BxExN + (t_BxE * u_BxE)[..., None] * B_BxN[:, None]


def _forward_rule(*inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return step(*inputs), inputs


def _backward_rule(inputs: tuple[jax.Array, ...], g_BxExN: jax.Array) -> tuple[Any, ...]:
    h_BxExN, u_BxE, t_BxE, A_ExN, B_BxN = inputs
    before_BxExN = g_BxExN * jnp.exp(t_BxE[..., None] * A_ExN)
    q_BxExN = before_BxExN * h_BxExN  # of the exponent t A
    dx_BxE = _einsum("ben,bn->be", g_BxExN, B_BxN)  # of t u
    return (
        before_BxExN,
        dx_BxE * t_BxE,
        dx_BxE * u_BxE + _einsum("ben,en->be", q_BxExN, A_ExN),
        _einsum("ben,be->en", q_BxExN, t_BxE),
        _einsum("ben,be->bn", g_BxExN, t_BxE * u_BxE),
    )


step.defvjp(_forward_rule, _backward_rule)
