"""Dropout with an explicit key."""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero each element with probability ``rate`` and scale the rest by ``1 / (1 - rate)``.

    Args:
        x: any shape, any floating dtype (kept).
        rate: probability in [0, 1) that an element is dropped, to 16 bits.
        key: a JAX random key, or ``None`` to switch dropout off (evaluation).
    """
    if key is None or rate == 0.0:
        return x
    # 16 random bits decide as well as 32 do and cost half as much.
    threshold = round(rate * 2**16)
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= threshold
    return jnp.where(keep, x / (1 - threshold / 2**16), 0).astype(x.dtype)
