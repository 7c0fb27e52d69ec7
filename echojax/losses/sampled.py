"""Losses that compare a target with a few sampled items instead of all items."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from echojax.losses.negatives import Draw
from echojax.losses.softmax import Loss
from echojax.sharded_embedding import embedding_lookup

Formula = Callable[[Array, Array, Array], Array]
"""``formula(target_BxP, negative_BxPxK, log_q) -> (B, P)``, as for ``losses.register_loss``."""

_NEGATIVES = 2**32 - 1  # dropout splits the same keys, but into fewer parts


def sampled_loss(formula: Formula, draw: Draw, num: int, axis: str | None = None) -> Loss:
    """Return the loss that applies ``formula`` to the logits of targets and ``num`` drawn items.

    The predictions of a row share its negatives, so that the logits are one matrix product. With
    ``num`` 1, however, each prediction has its own negative, as in SASRec: sharing would save
    nothing, and leave few negatives in a batch. A negative that is the target does not count.
    ``axis`` is the mapped axis over which the item table is sharded.
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
        user_BxPxD, item_VxD = user_BxPxD.astype(dtype), item_VxD.astype(dtype)
        keys_B = jax.vmap(lambda key: jax.random.fold_in(key, _NEGATIVES))(keys_B)
        own = num == 1
        shape = (targets_BxP.shape[1] if own else 1, num)
        drawn, log_q = draw(keys_B, shape, pool_M)  # (B, P, 1) or (B, 1, K)
        target_BxPxD, item_VxD = embedding_lookup(item_VxD, targets_BxP, axis)
        target_BxP = jnp.sum(user_BxPxD * target_BxPxD, axis=-1)
        negative, _ = embedding_lookup(item_VxD, drawn[..., 0] if own else drawn[:, 0], axis)
        if own:
            negative_BxPxK = jnp.sum(user_BxPxD * negative, axis=-1)[..., None]
        else:
            negative_BxPxK = jnp.einsum("bpd,bkd->bpk", user_BxPxD, negative)
        other = (drawn != targets_BxP[..., None]) & (drawn != 0)
        negative_BxPxK = jnp.where(other, negative_BxPxK, -jnp.inf)
        losses_BxP = formula(target_BxP, negative_BxPxK, log_q.astype(dtype))
        return jnp.sum(losses_BxP * weights_BxP)

    return loss


def sampled_softmax(target_BxP: Array, negative_BxPxK: Array, log_q: Array) -> Array:
    """Return the cross entropy, with the sum over all other items estimated from K negatives.

    A negative j represents ``1 / (K q_j)`` items; its logit is corrected by ``-log(K q_j)`` (Bengio
    and Senecal 2008; Jean et al. 2015, section 3). The target is not drawn but always present, so
    its logit is not corrected (Khrylchenko et al. 2025, arXiv 2507.09331). The estimate of the
    softmax's denominator is therefore unbiased, and the loss tends to the full softmax as K grows.
    """
    corrected_BxPxK = negative_BxPxK - log_q - math.log(negative_BxPxK.shape[-1])
    logits = jnp.concatenate([target_BxP[..., None], corrected_BxPxK], axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - target_BxP


def gbce(t: float, num: int, num_items: int) -> Formula:
    """Return the generalised binary cross entropy (Petrov and Macdonald 2023, arXiv 2308.07192).

    ``-(log sigma(s+)^beta + sum_j log(1 - sigma(s_j))) / (K + 1)`` with
    ``beta = alpha (t (1 - 1 / alpha) + 1 / alpha)``, where alpha is the sampling rate of the other
    items. BCE is the case ``t = 0``, where beta is 1.

    Args:
        t: 0 leaves the probability of the positive overestimated, 1 calibrates it fully.
        num: K, the number of negatives per target.
        num_items: V, with padding.
    """
    alpha = min(1.0, num / max(1, num_items - 2))  # of all items but padding and the target
    beta = 1 - t * (1 - alpha)

    def formula(target_BxP: Array, negative_BxPxK: Array, log_q: Array) -> Array:
        against_BxP = jnp.sum(jax.nn.softplus(negative_BxPxK), axis=-1)
        return (beta * jax.nn.softplus(-target_BxP) + against_BxP) / (num + 1)

    return formula


def bpr(target_BxP: Array, negative_BxPxK: Array, log_q: Array) -> Array:
    """Return the mean of ``-log sigma(s+ - s_j)`` over negatives (Rendle et al. 2009)."""
    return jnp.mean(jax.nn.softplus(negative_BxPxK - target_BxP[..., None]), axis=-1)
