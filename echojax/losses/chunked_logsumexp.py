"""logsumexp over the catalogue, one chunk of items after the other, forwards and backwards."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def chunked_logsumexp(user_MxD: Array, item_VxD: Array, valid: Array | int, chunk: int) -> Array:
    """Return ``logsumexp(user @ item[:valid].T)``, (M,); minus infinity where no item is valid.

    No (M, V) array is made. The gradient by the items is written chunk by chunk into the one array
    that it is: by JAX's own differentiation each chunk would add a whole table of zeros to it.

    Args:
        user_MxD: one vector a prediction, float32 or float64.
        item_VxD: the item table, of the same dtype.
        valid: how many of its rows are items; those behind them only fill up.
        chunk: items whose logits are held at once, at most V.
    """
    return _forward(user_MxD, item_VxD, valid, chunk)[0]


Kept = tuple[Array, Array, Array | int, Array]


def _forward(
    user_MxD: Array, item_VxD: Array, valid: Array | int, chunk: int
) -> tuple[Array, Kept]:
    def add(first: Array, total_M: Array) -> Array:
        logits_MxK, _ = _logits(user_MxD, item_VxD, valid, first, chunk)
        return jnp.logaddexp(total_M, jax.nn.logsumexp(logits_MxK, axis=-1))

    nothing_M = jnp.full(user_MxD.shape[0], -jnp.inf, user_MxD.dtype)
    total_M = _each_chunk(item_VxD, chunk, add, nothing_M)
    return total_M, (user_MxD, item_VxD, valid, total_M)


def _backward(chunk: int, kept: Kept, by_total_M: Array) -> tuple[Array, Array, None]:
    user_MxD, item_VxD, valid, total_M = kept

    def add(first: Array, grads: tuple[Array, Array]) -> tuple[Array, Array]:
        by_user_MxD, by_item_VxD = grads
        logits_MxK, start = _logits(user_MxD, item_VxD, valid, first, chunk)
        share_MxK = jnp.exp(logits_MxK - total_M[:, None])
        # Without a valid item this would be the exponential of infinity less infinity.
        by_logits_MxK = jnp.where(logits_MxK > -jnp.inf, share_MxK * by_total_M[:, None], 0)
        items_KxD = jax.lax.dynamic_slice_in_dim(item_VxD, start, chunk)
        old_KxD = jax.lax.dynamic_slice_in_dim(by_item_VxD, start, chunk)
        new_KxD = old_KxD + by_logits_MxK.T @ user_MxD
        by_item_VxD = jax.lax.dynamic_update_slice_in_dim(by_item_VxD, new_KxD, start, 0)
        return by_user_MxD + by_logits_MxK @ items_KxD, by_item_VxD

    nothing = jnp.zeros_like(user_MxD), jnp.zeros_like(item_VxD)
    by_user_MxD, by_item_VxD = _each_chunk(item_VxD, chunk, add, nothing)
    return by_user_MxD, by_item_VxD, None


chunked_logsumexp.defvjp(_forward, _backward)


def _each_chunk(item_VxD: Array, chunk: int, add: Callable[[Array, Any], Any], total: Any) -> Any:
    chunks = -(-item_VxD.shape[0] // chunk)
    return jax.lax.fori_loop(0, chunks, lambda i, total: add(i * chunk, total), total)


def _logits(
    user_MxD: Array, item_VxD: Array, valid: Array | int, first: Array, chunk: int
) -> tuple[Array, Array]:
    """Return the logits of the chunk from item ``first`` on, (M, K), and the row it starts at.

    The last chunk starts early enough to be full; what it shares with the one before it is minus
    infinity, so that the table is never padded or copied.
    """
    start = jnp.minimum(first, item_VxD.shape[0] - chunk)
    item_K = start + jnp.arange(chunk)
    items_KxD = jax.lax.dynamic_slice_in_dim(item_VxD, start, chunk)
    counted_K = (item_K >= first) & (item_K < valid)
    return jnp.where(counted_K, user_MxD @ items_KxD.T, -jnp.inf), start
