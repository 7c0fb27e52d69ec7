"""Full softmax: the exact cross entropy over all items, without an array (predictions, V).

The item table may be sharded over devices (vocabulary parallelism).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from echojax.sharded_embedding import embedding_lookup, first_row

# The largest number of logits at once: 256 MB of float32.
MOST_LOGITS = 2**26


Loss = Callable[..., Array]
"""What a training step minimises: ``loss(user, item, targets, weights, keys, pool)``.

The result is the weighted sum of the losses of all predictions, a scalar, at least float32.
``user`` (B, P, D) are the vectors of the model, ``item`` (V, D) is the item table with padding in
row 0, ``targets`` (B, P) are the next items, and ``weights`` (B, P) are 0 where nothing is
predicted. Only losses with sampled negatives read ``keys`` (B,), a random key per row, and ``pool``
(M,), the targets of the whole batch, with 0 for none (``negatives.pool``).
"""


def full_softmax(
    user_BxPxD: Array,
    item_VxD: Array,
    targets_BxP: Array,
    weights_BxP: Array,
    *_: Array,
    label_smoothing: float | Array = 0.0,
    axis: str | None = None,
    num_items: int | None = None,
) -> Array:
    """Return the weighted sum of ``softmax_cross_entropy``, as a ``Loss`` without negatives.

    The gradient of a few predictions is computed together with their logits, and nothing else is
    kept. This takes one exponential per logit and three matrix products in all, in the cache of the
    processor. Predictions of weight 0 (the padding of short histories) cost nothing. With more than
    a million items, or if the item table is sharded, the items are cut into chunks instead. Weights
    are constants and have no gradient.

    ``label_smoothing`` is the share of a target that is spread evenly over all items but padding,
    from 0 to below 1 (Szegedy et al. 2016, section 7, arXiv 1512.00567); it may be traced. With
    logits s, the loss is then ``logsumexp(s) - (1 - share) s_target - share mean(s)``, which is the
    exact loss plus ``share (s_target - mean(s))``. The mean is the product of the user with the
    mean item, so that no further logits are computed.

    ``axis`` and ``num_items``: as for ``softmax_cross_entropy``.
    """
    dtype = jnp.promote_types(user_BxPxD.dtype, jnp.float32)
    weights_BxP = jax.lax.stop_gradient(weights_BxP)
    user_BxPxD, item_VxD = user_BxPxD.astype(dtype), item_VxD.astype(dtype)
    # Vectors where nothing is predicted may be NaN; ``_by_rows`` does not read them.
    valid_BxPxD = jnp.where(weights_BxP[..., None] == 0, 0, user_BxPxD)
    smoothing: Array | float = 0.0
    if isinstance(label_smoothing, Array) or label_smoothing:
        target_BxPxD, item_VxD = embedding_lookup(item_VxD, targets_BxP, axis)
        mean_D = _mean_item(item_VxD, num_items or item_VxD.shape[0], axis)
        weighted_BxPxD = valid_BxPxD * weights_BxP[..., None]
        gap = jnp.sum(weighted_BxPxD * target_BxPxD) - jnp.sum(weighted_BxPxD, (0, 1)) @ mean_D
        smoothing = label_smoothing * gap
    rows_of_table, d_model = item_VxD.shape
    targets_M, weights_M = targets_BxP.ravel(), weights_BxP.ravel()
    rows = _rows_at_once(rows_of_table)
    if axis is None and rows < targets_M.size and rows * rows_of_table <= MOST_LOGITS:
        user_MxD = user_BxPxD.reshape(targets_M.size, d_model)
        return _by_rows(rows, user_MxD, item_VxD, targets_M, weights_M) + smoothing
    devices = jax.lax.axis_size(axis) if axis else 1
    chunk = max(1024, MOST_LOGITS // (targets_M.size * devices))
    valid_MxD = valid_BxPxD.reshape(targets_M.size, d_model)
    losses_M = softmax_cross_entropy(
        valid_MxD, item_VxD, targets_M, chunk=chunk, axis=axis, num_items=num_items
    )
    return jnp.sum(losses_M * weights_M) + smoothing


def softmax_cross_entropy(
    user_MxD: Array,
    item_VxD: Array,
    targets_M: Array,
    *,
    chunk: int | None = None,
    axis: str | None = None,
    num_items: int | None = None,
) -> Array:
    """Return minus the log of the target's softmax probability over all items, (M,).

    With ``axis``, each device computes the logits of all predictions for its own items, and sends
    back its part of the softmax's denominator. The devices exchange the vectors of the predictions,
    and one number per prediction and device.

    Args:
        user_MxD: One vector per prediction, float32 or float64.
        item_VxD: The item table, of the same dtype, with padding in row 0 (a class like the others,
            as in RecBole), or this device's shard of it.
        targets_M: The next items.
        chunk: How many items have their logits held at once, so that no (M, V) array is made,
            forward or backward; the value is the same. ``None`` takes all items at once.
        axis: The mapped axis over which the item table is sharded (``None``: it is not).
        num_items: With ``axis``, the number of items in the whole table; later rows are padding.
    """
    target_MxD, item_VxD = embedding_lookup(item_VxD, targets_M, axis)
    target_M = jnp.sum(user_MxD * target_MxD, axis=-1)
    rows = item_VxD.shape[0]
    chunk = min(chunk or rows, rows)
    if axis is not None:
        assert num_items is not None
        user_GxD = jax.lax.all_gather(user_MxD, axis, tiled=True)  # of all devices of the axis
        valid = num_items - first_row(item_VxD, axis)
        part_G = chunked_logsumexp(user_GxD, item_VxD, valid, chunk)
        part_SxM = jax.lax.all_to_all(part_G, axis, 0, 0, tiled=True).reshape(-1, targets_M.size)
        return jax.nn.logsumexp(part_SxM, axis=0) - target_M
    if chunk == rows:
        return jax.nn.logsumexp(user_MxD @ item_VxD.T, axis=-1) - target_M
    return chunked_logsumexp(user_MxD, item_VxD, rows, chunk) - target_M


def _rows_at_once(num_items: int) -> int:
    """Return for how many predictions logits are held: 1 MB of them stays in a CPU's cache.

    An accelerator needs 64 MB to be busy. With fewer than 64 predictions, reading and writing the
    gradient of the item table for each chunk would take longer than the matrix products.
    """
    logits = 2**18 if jax.default_backend() == "cpu" else 2**24
    return max(64, logits // num_items)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_rows(
    rows: int, user_MxD: Array, item_VxD: Array, targets_M: Array, weights_M: Array
) -> Array:
    """Return the weighted sum of cross entropies; the forward pass also computes its gradient."""
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
    """Return ``count``; under vmap, the largest one, so that all share one loop."""
    return count


@_most.def_vmap
def _(axis_size: int, batched: list[bool], counts: Array) -> tuple[Array, bool]:
    return jnp.max(counts), False


def _mean_item(item_VxD: Array, num_items: int, axis: str | None) -> Array:
    """Return the mean vector of items 1 to V - 1, (D,)."""
    number_V = jnp.arange(item_VxD.shape[0]) + (first_row(item_VxD, axis) if axis else 0)
    real_V = (number_V > 0) & (number_V < num_items)
    sum_D = jnp.sum(jnp.where(real_V[:, None], item_VxD, 0), axis=0)
    return (jax.lax.psum(sum_D, axis) if axis else sum_D) / (num_items - 1)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def chunked_logsumexp(user_MxD: Array, item_VxD: Array, valid: Array | int, chunk: int) -> Array:
    """Return ``logsumexp(user @ item[:valid].T)``, (M,); minus infinity where no item is valid.

    No (M, V) array is made. The gradient with respect to the items is written into one array, chunk
    by chunk; JAX's own differentiation would add a whole table, mostly of zeros, for each chunk.

    Args:
        user_MxD: One vector per prediction, float32 or float64.
        item_VxD: The item table, of the same dtype.
        valid: How many of its rows are items; later rows are padding.
        chunk: How many items have their logits held at once, at most V.
    """
    return _forward_chunks(user_MxD, item_VxD, valid, chunk)[0]


Kept = tuple[Array, Array, Array | int, Array]


def _forward_chunks(
    user_MxD: Array, item_VxD: Array, valid: Array | int, chunk: int
) -> tuple[Array, Kept]:
    def add(first: Array, total_M: Array) -> Array:
        logits_MxK, _ = _logits(user_MxD, item_VxD, valid, first, chunk)
        return jnp.logaddexp(total_M, jax.nn.logsumexp(logits_MxK, axis=-1))

    nothing_M = jnp.full(user_MxD.shape[0], -jnp.inf, user_MxD.dtype)
    total_M = _each_chunk(item_VxD, chunk, add, nothing_M)
    return total_M, (user_MxD, item_VxD, valid, total_M)


def _backward_chunks(chunk: int, kept: Kept, by_total_M: Array) -> tuple[Array, Array, None]:
    user_MxD, item_VxD, valid, total_M = kept

    def add(first: Array, grads: tuple[Array, Array]) -> tuple[Array, Array]:
        by_user_MxD, by_item_VxD = grads
        logits_MxK, start = _logits(user_MxD, item_VxD, valid, first, chunk)
        share_MxK = jnp.exp(logits_MxK - total_M[:, None])
        # Without a valid item, this would be the exponential of infinity minus infinity.
        by_logits_MxK = jnp.where(logits_MxK > -jnp.inf, share_MxK * by_total_M[:, None], 0)
        items_KxD = jax.lax.dynamic_slice_in_dim(item_VxD, start, chunk)
        old_KxD = jax.lax.dynamic_slice_in_dim(by_item_VxD, start, chunk)
        new_KxD = old_KxD + by_logits_MxK.T @ user_MxD
        by_item_VxD = jax.lax.dynamic_update_slice_in_dim(by_item_VxD, new_KxD, start, 0)
        return by_user_MxD + by_logits_MxK @ items_KxD, by_item_VxD

    nothing = jnp.zeros_like(user_MxD), jnp.zeros_like(item_VxD)
    by_user_MxD, by_item_VxD = _each_chunk(item_VxD, chunk, add, nothing)
    return by_user_MxD, by_item_VxD, None


chunked_logsumexp.defvjp(_forward_chunks, _backward_chunks)


def _each_chunk(item_VxD: Array, chunk: int, add: Callable[[Array, Any], Any], total: Any) -> Any:
    chunks = -(-item_VxD.shape[0] // chunk)
    return jax.lax.fori_loop(0, chunks, lambda i, total: add(i * chunk, total), total)


def _logits(
    user_MxD: Array, item_VxD: Array, valid: Array | int, first: Array, chunk: int
) -> tuple[Array, Array]:
    """Return the logits of the chunk from item ``first`` on, (M, K), and the row where it starts.

    The last chunk starts early enough to be full, so that the table is never padded or copied; the
    logits of items that are also in the chunk before it are minus infinity.
    """
    start = jnp.minimum(first, item_VxD.shape[0] - chunk)
    item_K = start + jnp.arange(chunk)
    items_KxD = jax.lax.dynamic_slice_in_dim(item_VxD, start, chunk)
    counted_K = (item_K >= first) & (item_K < valid)
    return jnp.where(counted_K, user_MxD @ items_KxD.T, -jnp.inf), start
