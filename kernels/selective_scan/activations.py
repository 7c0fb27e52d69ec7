"""What is computed once a position and channel: time steps, and the derivative of gates."""

import jax
import jax.numpy as jnp
from jax import Array


def softplus(x: Array) -> Array:
    """Return log(1 + exp(x)) to its dtype's precision, also where it is tiny.

    In float32 log(1 + y) = 2 artanh(s) with s = y / (2 + y), y = exp(-|x|): s is at most 1/3, and
    the series ends below 1e-8. It costs a third of ``jax.nn.softplus`` on the CPU, and a GPU's fast
    logarithm has no relative precision near 1.
    """
    if x.dtype != jnp.float32:
        return jax.nn.softplus(x)
    y = jnp.exp(-jnp.abs(x))
    s = y / (2 + y)
    square = s * s
    series = jnp.full_like(s, 1 / 15)
    for n in (13, 11, 9, 7, 5, 3, 1):
        series = series * square + 1 / n
    return jnp.maximum(x, 0.0) + 2 * s * series


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x))."""
    return 1 / (1 + jnp.exp(-x))
