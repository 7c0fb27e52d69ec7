"""What a batch teaches: which vectors of the model meet which next items.

P is the number of predictions a row makes: 1 for prefixes, L for whole sequences.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from echojax.models.positions import mask, within

Batch = dict[str, jax.Array]

_HIDDEN = 2**32 - 2  # dropout splits the same keys, and negatives have the number above


class Predictions(NamedTuple):
    """Vectors and the items that they should score highest."""

    user_BxPxD: jax.Array
    targets_BxP: jax.Array
    weights_BxP: jax.Array  # float32, 0 where there is nothing to predict
    item_VxD: jax.Array  # the item table as the model's lookup returned it


Objective = Callable[[Any, Batch, jax.Array], Predictions]


def prefixes(model: Any, batch: Batch, keys_B: jax.Array) -> Predictions:
    """Predict the item after each prefix, one a row: any model may be trained so."""
    times = model.times(batch.get("gaps"))
    items_BxL, lengths_B = model.arranged(batch["item_ids"], batch["lengths"])
    x_BxLxD, item_VxD = model.lookup(items_BxL)
    user_BxD = model.read_out(x_BxLxD, lengths_B, dropout_keys=keys_B, **times)
    targets_Bx1, weights_Bx1 = batch["targets"][:, None], batch["weights"][:, None]
    return Predictions(user_BxD[:, None], targets_Bx1, weights_Bx1, item_VxD)


def all_positions(model: Any, batch: Batch, keys_B: jax.Array) -> Predictions:
    """Predict the next item at each position of a pass: for causal models only.

    ``batch["targets"]`` is (B, L): what follows each item. A packed batch has ``segment_ids``
    (``echojax.data.packing``).
    """
    given = model.times(batch.get("gaps"))
    if "segment_ids" in batch:
        given["segment_ids_BxL"] = batch["segment_ids"]
    x_BxLxD, item_VxD = model.lookup(batch["item_ids"])
    user_BxLxD = model.read_all(x_BxLxD, batch["lengths"], dropout_keys=keys_B, **given)
    length = batch["item_ids"].shape[1]
    inside_BxL = mask(within(batch["lengths"], length, model.time_axis), length)
    weights_BxL = inside_BxL * batch["weights"][:, None]
    return Predictions(user_BxLxD, batch["targets"], weights_BxL, item_VxD)


def cloze(model: Any, batch: Batch, keys_B: jax.Array) -> Predictions:
    """Predict hidden items from what stands on both sides (BERT4Rec, section 3.6).

    The sequence is a row's items and its last target, the newest L of them. A share of
    ``model.mask_rate`` is hidden, rounded, at least one; in one row of ten it is only the last,
    which is what evaluation asks.
    """
    items_BxL, lengths_B = _with_last_target(batch)
    length = items_BxL.shape[1]
    inside_BxL = mask(lengths_B, length)
    last_BxL = jnp.arange(length) == lengths_B[:, None] - 1

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        first, second = jax.random.split(key)
        return jax.random.uniform(first, (length,)), jax.random.uniform(second)

    draws_BxL, kind_B = jax.vmap(draw)(
        jax.vmap(lambda key: jax.random.fold_in(key, _HIDDEN))(keys_B)
    )
    # A number, not a chance for each: short rows would often be hidden whole, and teach nothing.
    order_BxL = jnp.argsort(jnp.where(inside_BxL, draws_BxL, 2.0), axis=1)
    place_BxL = jnp.argsort(order_BxL, axis=1)
    count_B = jnp.maximum(1, jnp.round(model.mask_rate * lengths_B))
    hidden_BxL = place_BxL < count_B[:, None]
    hidden_BxL = jnp.where(kind_B[:, None] < 0.1, last_BxL, hidden_BxL)
    x_BxLxD, item_VxD = model.lookup(items_BxL)
    user_BxLxD = model.read_hidden(x_BxLxD, lengths_B, hidden_BxL, dropout_keys=keys_B)
    weights_BxL = hidden_BxL * batch["weights"][:, None]
    return Predictions(user_BxLxD, items_BxL, weights_BxL, item_VxD)


def _with_last_target(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Return each row's items and last target, at most L of them, and their number."""
    items_BxL, targets_BxL, lengths_B = batch["item_ids"], batch["targets"], batch["lengths"]
    length = items_BxL.shape[1]
    # Where the window is full its oldest item makes room: then the targets are the sequence.
    short_BxL = jnp.hstack([items_BxL[:, :1], targets_BxL[:, :-1]])
    full_B = lengths_B == length
    sequence_BxL = jnp.where(full_B[:, None], targets_BxL, short_BxL)
    return sequence_BxL, jnp.where(full_B, length, lengths_B + 1)


OBJECTIVES: dict[str, Objective] = {
    "prefixes": prefixes,
    "all-positions": all_positions,
    "cloze": cloze,
}
