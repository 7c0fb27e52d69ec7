"""Label smoothing of the full softmax (Szegedy et al. 2016, section 7, arXiv 1512.00567)."""

import jax
import jax.numpy as jnp
from jax import Array

from echojax.losses.sampled import Loss
from echojax.sharded_embedding import embedding_lookup, first_row


def smoothed(loss: Loss, share: float, num_items: int, axis: str | None = None) -> Loss:
    """Return the cross entropy with targets of which a ``share`` is spread over all items alike.

    With logits s it is ``logsumexp(s) - (1 - share) s_target - share mean(s)``, that is the exact
    ``loss`` and ``share (s_target - mean(s))``: the mean is the user's product with the mean item,
    so that no further logits are made. Padding is no item.

    Args:
        loss: the exact cross entropy, of the whole table or of the axis's.
        share: from 0 to below 1.
        num_items: V, with padding; rows behind it only fill up.
        axis: the mapped axis that the item table is spread over.
    """

    def with_smoothing(
        user_BxPxD: Array,
        item_VxD: Array,
        targets_BxP: Array,
        weights_BxP: Array,
        keys_B: Array,
        pool_M: Array,
    ) -> Array:
        dtype = jnp.promote_types(user_BxPxD.dtype, jnp.float32)
        user_BxPxD, item_VxD = user_BxPxD.astype(dtype), item_VxD.astype(dtype)
        weights_BxP = jax.lax.stop_gradient(weights_BxP)
        target_BxPxD, item_VxD = embedding_lookup(item_VxD, targets_BxP, axis)
        mean_D = _mean_item(item_VxD, num_items, axis)
        # What stands where nothing is predicted may be no number.
        counted_BxPxD = jnp.where(weights_BxP[..., None] == 0, 0, user_BxPxD)
        user_BxPxD = counted_BxPxD * weights_BxP[..., None]
        gap = jnp.sum(user_BxPxD * target_BxPxD) - jnp.sum(user_BxPxD, axis=(0, 1)) @ mean_D
        exact = loss(counted_BxPxD, item_VxD, targets_BxP, weights_BxP, keys_B, pool_M)
        return exact + share * gap

    return with_smoothing


def _mean_item(item_VxD: Array, num_items: int, axis: str | None) -> Array:
    """Return the mean vector of items 1 to V - 1, (D,)."""
    number_V = jnp.arange(item_VxD.shape[0]) + (first_row(item_VxD, axis) if axis else 0)
    real_V = (number_V > 0) & (number_V < num_items)
    sum_D = jnp.sum(jnp.where(real_V[:, None], item_VxD, 0), axis=0)
    return (jax.lax.psum(sum_D, axis) if axis else sum_D) / (num_items - 1)
