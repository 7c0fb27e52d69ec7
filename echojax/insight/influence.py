"""How much each past event moves the score of the next item, and on which way.

The influence of a vector x on a score s is ``|ds/dx| |x|``: the most that s changes, to first
order, when x changes by a small share of its length. (``ds/dx . x`` would be 0 wherever x meets a
layer normalisation first.)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.insight.modules import Gate, Shift, modules
from echojax.models import SequenceModel
from echojax.models.echomamba4rec import BidirectionalLayer, BidirectionalMamba


def own_items(model: SequenceModel, item_ids_BxL: jax.Array, offset_BxLxD: jax.Array) -> jax.Array:
    """Make every event an item of its own, with its item's vector and an offset.

    A gradient with respect to the offsets is one by event, whatever the model does with a history
    (roll it, cut it, put something behind it).

    Args:
        model: merged for the traced function at hand; its item table is changed.
        item_ids_BxL: item numbers, 0 for padding.
        offset_BxLxD: what is added to the events' vectors.

    Returns:
        The events' numbers in the new table, (B, L), 0 for padding.
    """
    table_VxD = model.item_embedding[...]
    event_BxLxD = table_VxD[item_ids_BxL] + offset_BxLxD
    events_MxD = event_BxLxD.reshape(-1, table_VxD.shape[1])
    model.item_embedding = nnx.Param(jnp.concatenate([table_VxD[:1], events_MxD]))
    numbers_BxL = 1 + jnp.arange(item_ids_BxL.size).reshape(item_ids_BxL.shape)
    return jnp.where(item_ids_BxL > 0, numbers_BxL, 0)


def part_branches(model: SequenceModel, gates: Any, offset_BxLxD: jax.Array) -> list[jax.Array]:
    """Let gradients through the forward and the backward Mambas as ``gates`` say.

    A Mamba's gate holds for the residual around it too, so that in one layer the gradients of both
    gates apart sum to the whole one.

    Args:
        model: one with two branches, merged for the traced function at hand; it is changed.
        gates: 1 or 0 for forward, and for backward.
        offset_BxLxD: added to what the first layer's Mambas read, behind its filter; of
            ``max_len`` positions.

    Returns:
        A list that gets, when ``model`` encodes, what they read, (B, L, D).
    """
    for pair in modules(model, BidirectionalMamba):
        pair.norm_forward = Gate(pair.norm_forward, gates[0])
        pair.norm_backward = Gate(pair.norm_backward, gates[1])
    read: list[jax.Array] = []
    first = modules(model, BidirectionalLayer)[0]
    first.mambas[0] = Shift(first.mambas[0], offset_BxLxD, read.append)
    return read


def influence(gradient_BxLxD: jax.Array, x_BxLxD: jax.Array) -> jax.Array:
    """Return ``|gradient| |x|`` of each vector, (B, L)."""
    return jnp.linalg.norm(gradient_BxLxD, axis=-1) * jnp.linalg.norm(x_BxLxD, axis=-1)


def by_age(influence_BxL: np.ndarray, lengths_B: np.ndarray, whole_BxL: np.ndarray) -> np.ndarray:
    """Return the mean influence of the event that was k events ago, at place k of (L + 2,).

    Two places are not ages: 0 holds the share of all the padding, L + 1 that of the first event
    shown where it is not the last too. (A Mamba that reads from the end to the start ends there;
    among the ages it would be smeared over the lengths of the histories.) Each history counts by
    shares of its whole influence, ``whole_BxL``'s sum; each mean is over the histories that have
    such a place, and NaN where none has.
    """
    total_Bx1 = whole_BxL.sum(axis=1, keepdims=True)
    share_BxL = np.divide(
        influence_BxL, total_Bx1, out=np.zeros_like(influence_BxL), where=total_Bx1 > 0
    )
    length = influence_BxL.shape[1]
    place_BxL = np.maximum(lengths_B[:, None] - np.arange(length), 0)
    place_BxL[lengths_B > 1, 0] = length + 1
    sums = np.bincount(place_BxL.ravel(), share_BxL.ravel(), minlength=length + 2)
    has_BxP = np.zeros((lengths_B.size, length + 2), bool)
    np.put_along_axis(has_BxP, place_BxL, True, axis=1)
    histories = has_BxP.sum(axis=0)
    return np.divide(sums, histories, out=np.full(length + 2, np.nan), where=histories > 0)
