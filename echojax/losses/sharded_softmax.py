"""Full softmax over a catalogue of which each device has a part (vocabulary-parallel)."""

import jax
import jax.numpy as jnp
from jax import Array

from echojax.losses.chunked_logsumexp import chunked_logsumexp
from echojax.losses.sampled import Loss
from echojax.losses.softmax import MOST_LOGITS
from echojax.sharded_embedding import embedding_lookup, first_row


def sharded_softmax(axis: str, num_items: int) -> Loss:
    """Return the exact cross entropy of a device's predictions over all devices' items.

    Each device takes the predictions of all to its own items, some items at a time, and tells each
    its part of the softmax's denominator: what is exchanged is the vectors of the predictions and
    one number a prediction and device. Nothing of size (predictions, V) is anywhere.

    Args:
        axis: the mapped axis that the item table is spread over.
        num_items: of the whole table; rows behind them fill up the last device's part.

    The loss is given this device's part of the table.
    """

    def loss(
        user_BxPxD: Array,
        item_VxD: Array,
        targets_BxP: Array,
        weights_BxP: Array,
        keys_B: Array,
        pool_M: Array,
    ) -> Array:
        dtype = jnp.promote_types(user_BxPxD.dtype, jnp.float32)
        targets_M, weights_M = targets_BxP.ravel(), jax.lax.stop_gradient(weights_BxP.ravel())
        user_MxD = user_BxPxD.reshape(targets_M.size, -1).astype(dtype)
        user_MxD = jnp.where(weights_M[:, None] == 0, 0, user_MxD)
        item_VxD = item_VxD.astype(dtype)
        target_MxD, item_VxD = embedding_lookup(item_VxD, targets_M, axis)
        user_GxD = jax.lax.all_gather(user_MxD, axis, tiled=True)  # of all devices of the axis
        chunk = min(item_VxD.shape[0], max(1024, MOST_LOGITS // user_GxD.shape[0]))
        valid = num_items - first_row(item_VxD, axis)
        part_G = chunked_logsumexp(user_GxD, item_VxD, valid, chunk)
        part_SxM = jax.lax.all_to_all(part_G, axis, 0, 0, tiled=True).reshape(-1, targets_M.size)
        target_M = jnp.sum(user_MxD * target_MxD, axis=-1)
        return jnp.sum((jax.nn.logsumexp(part_SxM, axis=0) - target_M) * weights_M)

    return loss
