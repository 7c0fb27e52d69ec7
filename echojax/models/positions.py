"""Which positions of a window hold items, and the vector at one of them."""

import jax
import jax.numpy as jnp


def mask(lengths_B: jax.Array, length: int) -> jax.Array:
    """Return (B, L) booleans: is the position an item (and not padding)?"""
    return jnp.arange(length) < lengths_B[:, None]


def at_position(x_BxLxD: jax.Array, position_B: jax.Array) -> jax.Array:
    """Return row b's vector at position[b], (B, D)."""
    return jnp.take_along_axis(x_BxLxD, position_B[:, None, None], axis=1)[:, 0]


def pad_to(item_ids_BxL: jax.Array, length: int) -> jax.Array:
    """Fill up (B, L) item numbers with padding, to (B, length); longer ones stay as they are."""
    item_ids_BxL = jnp.asarray(item_ids_BxL)
    return jnp.pad(item_ids_BxL, ((0, 0), (0, max(0, length - item_ids_BxL.shape[1]))))
