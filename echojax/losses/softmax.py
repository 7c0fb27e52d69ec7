"""Full softmax: exact cross entropy over the catalogue, without (predictions, V) logits."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from echojax.losses.chunked_logsumexp import chunked_logsumexp
from echojax.sharded_embedding import embedding_lookup

# Never more logits at once than 256 MB of float32.
MOST_LOGITS = 2**26


def full_softmax(
    user_BxPxD: Array,
    item_VxD: Array,
    targets_BxP: Array,
    weights_BxP: Array,
    keys_B: Array | None = None,
    pool_M: Array | None = None,
) -> Array:
    """Return the weighted sum of ``softmax_cross_entropy``, as a ``Loss`` (nothing is drawn).

    The gradient of a few predictions is computed as soon as their logits are there and nothing
    else is kept: one exponential a logit and three matrix products in all, in the processor's
    cache. Predictions of weight 0 (the padding of short histories) cost nothing. Beyond a million
    items it is the catalogue that is cut into chunks. Weights are constants: no gradient.
    """
    num_items, width = item_VxD.shape
    user_MxD = user_BxPxD.reshape(-1, width)
    targets_M, weights_M = targets_BxP.ravel(), jax.lax.stop_gradient(weights_BxP.ravel())
    rows = _rows_at_once(num_items)
    if targets_M.size <= rows or rows * num_items > MOST_LOGITS:
        chunk = max(1024, MOST_LOGITS // targets_M.size)
        losses_M = softmax_cross_entropy(user_MxD, item_VxD, targets_M, chunk=chunk)
        return jnp.sum(losses_M * weights_M)
    dtype = jnp.promote_types(user_MxD.dtype, jnp.float32)
    return _by_rows(rows, user_MxD.astype(dtype), item_VxD.astype(dtype), targets_M, weights_M)


def softmax_cross_entropy(
    user_MxD: Array, item_VxD: Array, targets_M: Array, *, chunk: int | None = None
) -> Array:
    """Return minus the log of the target's softmax probability over the whole catalogue, (M,).

    Args:
        user_MxD: one vector a prediction, any floating dtype; logits are float32 at least.
        item_VxD: the item table, padding in row 0 (a class like the others, as in RecBole).
        targets_M: the next items.
        chunk: items whose logits are held at once. The value is the same; no (M, V) array is made,
            forward or backward. ``None`` takes all items at once.
    """
    dtype = jnp.promote_types(user_MxD.dtype, jnp.float32)
    user_MxD, item_VxD = user_MxD.astype(dtype), item_VxD.astype(dtype)
    target_MxD, item_VxD = embedding_lookup(item_VxD, targets_M, None)
    target_M = jnp.sum(user_MxD * target_MxD, axis=-1)
    if chunk is None or chunk >= item_VxD.shape[0]:
        return jax.nn.logsumexp(user_MxD @ item_VxD.T, axis=-1) - target_M
    return chunked_logsumexp(user_MxD, item_VxD, item_VxD.shape[0], chunk) - target_M


def _rows_at_once(num_items: int) -> int:
    """Return for how many predictions logits are held: 1 MB stays in a CPU's cache.

    An accelerator wants 64 MB to be busy. With fewer than 64 predictions the item table's gradient,
    read and written for each chunk, would take longer than the matrix products.
    """
    logits = 2**18 if jax.default_backend() == "cpu" else 2**24
    return max(64, logits // num_items)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_rows(
    rows: int, user_MxD: Array, item_VxD: Array, targets_M: Array, weights_M: Array
) -> Array:
    """Return the weighted sum of cross entropies; its gradient is ready with its value."""
    return _with_gradient(rows, user_MxD, item_VxD, targets_M, weights_M)[0]


def _with_gradient(
    rows: int, user_MxD: Array, item_VxD: Array, targets_M: Array, weights_M: Array
) -> tuple[Array, tuple[Array, Array]]:
    """Return the weighted sum and its gradients by users and items, ``rows`` users at a time."""
    size = targets_M.size
    chunks = -(-size // rows)
    counted_M = jnp.flatnonzero(weights_M, size=chunks * rows, fill_value=size)

    def add_chunk(chunk: Array, total: tuple[Array, ...]) -> tuple[Array, ...]:
        loss, user_grad_MxD, item_grad_VxD = total
        at_K = jax.lax.dynamic_slice_in_dim(counted_M, chunk * rows, rows)
        user_KxD, targets_K, weights_K = (
            jnp.take(x, at_K, axis=0, mode="fill", fill_value=0)
            for x in (user_MxD, targets_M, weights_M)
        )

        def weighted(user_KxD: Array, item_VxD: Array) -> Array:
            return jnp.sum(softmax_cross_entropy(user_KxD, item_VxD, targets_K) * weights_K)

        part, (by_user, by_item) = jax.value_and_grad(weighted, (0, 1))(user_KxD, item_VxD)
        user_grad_MxD = user_grad_MxD.at[at_K].set(by_user, mode="drop")
        return loss + part, user_grad_MxD, item_grad_VxD + by_item

    nothing = jnp.zeros((), user_MxD.dtype), jnp.zeros_like(user_MxD), jnp.zeros_like(item_VxD)
    needed = _most(-(-jnp.count_nonzero(weights_M) // rows))
    loss, *gradients = jax.lax.fori_loop(0, needed, add_chunk, nothing)
    return loss, tuple(gradients)


def _backward(
    rows: int, gradients: tuple[Array, Array], by_loss: Array
) -> tuple[Array, Array, None, None]:
    by_user_MxD, by_item_VxD = gradients
    return by_user_MxD * by_loss, by_item_VxD * by_loss, None, None


_by_rows.defvjp(_with_gradient, _backward)


@jax.custom_batching.custom_vmap
def _most(count: Array) -> Array:
    """Return ``count``; under vmap the largest, so that all go through one loop together."""
    return count


@_most.def_vmap
def _(axis_size: int, batched: list[bool], counts: Array) -> tuple[Array, bool]:
    return jnp.max(counts), False
