"""How much each past event moves the score of the next item, and through which Mambas.

The attribution of a score s to a vector x is ``|ds/dx| |x|``. To first order, this is the largest
change of s, per share, if x changes by a small share of its length. (``ds/dx . x`` would be 0
wherever the first operation on x is a layer normalisation.)
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
    """Make every event an item of its own, whose vector is that of its item plus an offset.

    The gradient with respect to the offsets is then the gradient by event, even if the model rolls
    or cuts histories, or appends to them. ``model``, which must have been merged inside the traced
    function, gets a table of events. Returns the numbers of the events in this table, (B, L), with
    0 for padding.
    """
    table_VxD = model.item_embedding[...]
    event_BxLxD = table_VxD[item_ids_BxL] + offset_BxLxD
    events_MxD = event_BxLxD.reshape(-1, table_VxD.shape[1])
    model.item_embedding = nnx.Param(jnp.concatenate([table_VxD[:1], events_MxD]))
    numbers_BxL = 1 + jnp.arange(item_ids_BxL.size).reshape(item_ids_BxL.shape)
    return jnp.where(item_ids_BxL > 0, numbers_BxL, 0)


def is_bidirectional(model: SequenceModel) -> bool:
    """Return whether the model has Mambas of both directions."""
    return any(pair.backward is not None for pair in of_kind(model, BidirectionalMamba))


def gate_directions(model: SequenceModel, gates: Any, offset_BxLxD: jax.Array) -> list[jax.Array]:
    """Change a model so that ``gates`` block gradients through forward or backward Mambas.

    Each of the two gates is 1 (pass) or 0 (block). A gate also applies to the residual around the
    Mamba, so that in one layer the gradients of both directions sum to the whole gradient. The
    offset is added to the input of the first layer's Mambas, after its filter, at all ``max_len``
    positions. Returns a list to which this input, (B, L, D), is appended when ``model`` encodes.
    ``model`` must have been merged inside the traced function.
    """
    for pair in of_kind(model, BidirectionalMamba):
        pair.norm_forward = _gated(pair.norm_forward, gates[0])
        pair.norm_backward = _gated(pair.norm_backward, gates[1])
    read: list[jax.Array] = []
    first = of_kind(model, BidirectionalLayer)[0]
    filtered = first.filtered

    def shifted(*inputs: Any) -> jax.Array:
        read.append(filtered(*inputs))
        return read[0] + offset_BxLxD

    first.filtered = shifted
    return read


def by_age(values_BxL: np.ndarray, lengths_B: np.ndarray, whole_BxL: np.ndarray) -> np.ndarray:
    """Return the mean attribution to the event that was k events ago, at index k of (L + 2,).

    Two indices are not ages: 0 is the share of all padding, and L + 1 that of the first event, if
    it is not also the last. (A backward Mamba ends there; by age, the share of the first event
    would be spread over the lengths of the histories.) Attributions are shares of the sum of
    ``whole_BxL`` for each history. Each mean is over the histories that have an event of that age,
    and NaN if there are none.
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


def of_kind(model: SequenceModel, kind: type[nnx.Module]) -> list[Any]:
    """Return the model's modules of a kind, from the first layer on."""
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, kind)]


def _gated(norm: nnx.Module, gate: float | jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Return ``norm`` with gradients that pass (gate 1) or are blocked (gate 0)."""

    def gated(x: jax.Array) -> jax.Array:
        y = norm(x)
        constant = jax.lax.stop_gradient(y)
        return constant + gate * (y - constant)

    return gated
