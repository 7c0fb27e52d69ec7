"""Dropout with explicit keys, one a row of the batch.

A row's mask depends on its own key alone, so it is the same whatever other rows are computed
beside it: in microbatches, on another number of devices, or among other seeds.
"""

import jax
import jax.numpy as jnp

from echojax.models.sequence_shards import whole_length


def dropout(
    x: jax.Array, rate: float, keys_B: jax.Array | None, time_axis: str | None = None
) -> jax.Array:
    """Zero each element with probability ``rate`` and scale the rest by ``1 / (1 - rate)``.

    Args:
        x: (B, ...), any floating dtype (kept).
        rate: probability in [0, 1) that an element is dropped, to 16 bits.
        keys_B: a JAX random key a row, or ``None`` to switch dropout off (evaluation).
        time_axis: the mapped axis of whose positions x (B, L, D) has this device's stretch: it gets
            its part of the whole's mask.
    """
    if keys_B is None or rate == 0.0:
        return x
    # 16 random bits decide as well as 32 do and cost half as much.
    threshold = round(rate * 2**16)
    shape = x.shape[1:]
    if time_axis and x.ndim == 3:
        shape = (whole_length(shape[0], time_axis), *shape[1:])
    bits = jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint16))(keys_B)
    if time_axis and x.ndim == 3:
        first = jax.lax.axis_index(time_axis) * x.shape[1]
        bits = jax.lax.dynamic_slice_in_dim(bits, first, x.shape[1], axis=1)
    return jnp.where(bits >= threshold, x / (1 - threshold / 2**16), 0).astype(x.dtype)


def split_keys(keys_B: jax.Array | None, num: int) -> list[jax.Array | None]:
    """Split every row's key into ``num``; without keys there is nothing to split."""
    if keys_B is None:
        return [None] * num
    return list(jax.vmap(lambda key: jax.random.split(key, num), out_axes=1)(keys_B))
