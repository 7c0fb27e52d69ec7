"""How much each past event moves the score of the next item, and through which Mambas.

The attribution of a score s to a vector x is ``|ds/dx| |x|``: the most that s changes, to first
order, when x changes by a small share of its length. (``ds/dx . x`` would be 0 wherever x meets a
layer normalisation first.)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.models import SequenceModel
from echojax.models.echomamba4rec import BidirectionalLayer, BidirectionalMamba


def attribution(gradient_BxLxD: jax.Array, x_BxLxD: jax.Array) -> jax.Array:
    """Return ``|gradient| |x|`` of each vector, (B, L)."""
    return jnp.linalg.norm(gradient_BxLxD, axis=-1) * jnp.linalg.norm(x_BxLxD, axis=-1)


def own_items(model: SequenceModel, item_ids_BxL: jax.Array, offset_BxLxD: jax.Array) -> jax.Array:
    """Make every event an item of its own, with its item's vector and an offset.

    A gradient with respect to the offsets is then one by event, whatever the model does with a
    history (roll it, cut it, append to it). ``model``, merged for the traced function at hand, gets
    a table of events; their numbers there are returned, (B, L), 0 for padding.
    """
    table_VxD = model.item_embedding[...]
    event_BxLxD = table_VxD[item_ids_BxL] + offset_BxLxD
    events_MxD = event_BxLxD.reshape(-1, table_VxD.shape[1])
    model.item_embedding = nnx.Param(jnp.concatenate([table_VxD[:1], events_MxD]))
    numbers_BxL = 1 + jnp.arange(item_ids_BxL.size).reshape(item_ids_BxL.shape)
    return jnp.where(item_ids_BxL > 0, numbers_BxL, 0)


def is_bidirectional(model: SequenceModel) -> bool:
    """Return whether the model has Mambas of both directions."""
    return any(pair.backward is not None for pair in _of_kind(model, BidirectionalMamba))


def gate_directions(model: SequenceModel, gates: Any, offset_BxLxD: jax.Array) -> list[jax.Array]:
    """Let gradients through the forward and the backward Mambas as ``gates``, 1 or 0 each, say.

    A Mamba's gate holds for the residual around it too, so that in one layer the gradients of both
    directions sum to the whole one. The offset is added to what the first layer's Mambas read,
    after its filter, at all ``max_len`` positions. The list that is returned gets what they read,
    (B, L, D), when ``model`` encodes; it is merged for the traced function at hand, and changed.
    """
    for pair in _of_kind(model, BidirectionalMamba):
        pair.norm_forward = _gated(pair.norm_forward, gates[0])
        pair.norm_backward = _gated(pair.norm_backward, gates[1])
    read: list[jax.Array] = []
    first = _of_kind(model, BidirectionalLayer)[0]
    filtered = first.filtered

    def shifted(*inputs: Any) -> jax.Array:
        read.append(filtered(*inputs))
        return read[0] + offset_BxLxD

    first.filtered = shifted
    return read


def by_age(values_BxL: np.ndarray, lengths_B: np.ndarray, whole_BxL: np.ndarray) -> np.ndarray:
    """Return the mean attribution to the event that was k events ago, at place k of (L + 2,).

    Two places are not ages: 0 holds the share of all the padding, L + 1 that of the first event
    shown where it is not the last too. (A Mamba that reads from the end to the start ends there;
    among the ages it would be smeared over the lengths of the histories.) Each history counts by
    shares of its whole attribution, ``whole_BxL``'s sum; each mean is over the histories that have
    such a place, and NaN where none has.
    """
    total_Bx1 = whole_BxL.sum(axis=1, keepdims=True)
    share_BxL = np.divide(values_BxL, total_Bx1, out=np.zeros_like(values_BxL), where=total_Bx1 > 0)
    length = values_BxL.shape[1]
    place_BxL = np.maximum(lengths_B[:, None] - np.arange(length), 0)
    place_BxL[lengths_B > 1, 0] = length + 1
    sums = np.bincount(place_BxL.ravel(), share_BxL.ravel(), minlength=length + 2)
    has_BxP = np.zeros((lengths_B.size, length + 2), bool)
    np.put_along_axis(has_BxP, place_BxL, True, axis=1)
    histories = has_BxP.sum(axis=0)
    return np.divide(sums, histories, out=np.full(length + 2, np.nan), where=histories > 0)


def _of_kind(model: SequenceModel, kind: type[nnx.Module]) -> list[Any]:
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, kind)]


def _gated(norm: nnx.Module, gate: float | jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Return ``norm`` with gradients that pass (gate 1) or do not (gate 0)."""

    def gated(x: jax.Array) -> jax.Array:
        y = norm(x)
        constant = jax.lax.stop_gradient(y)
        return constant + gate * (y - constant)

    return gated
