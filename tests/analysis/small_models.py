"""Small models of every kind in float64, whose every parameter shows, and histories for them."""

import inspect
from functools import partial

import numpy as np

from echojax.models import MODELS
from echojax.models.echomamba4rec import VARIANTS, Components
from tests.models.promises import filled

ITEMS, LENGTH = 12, 7
# No item twice in a history, so that moving an item's vector moves one event.
BATCH = {
    "item_ids": np.array(
        [
            [3, 1, 4, 9, 5, 0, 0],
            [9, 2, 6, 5, 3, 1, 8],
            [7, 0, 0, 0, 0, 0, 0],
            [2, 7, 1, 8, 4, 5, 0],
        ],
        np.int32,
    ),
    "lengths": np.array([5, 7, 1, 6], np.int32),
    "targets": np.array([2, 3, 7, 11], np.int32),
}  # fmt: skip
INSIDE = np.arange(LENGTH) < BATCH["lengths"][:, None]


def build(name, variant="echojax", noise=0.5, **sizes):
    """Return a model with float64 parameters."""
    kind = MODELS[name]
    if name == "echomamba4rec":
        sizes["corrections"] = VARIANTS[variant]
        sizes["components"] = sizes.get("components", Components())
    if "scan" in inspect.signature(kind.__init__).parameters:
        sizes |= {"scan": "sequential", "d_state": 3}  # the quickest to compile
    make = partial(kind, ITEMS, d_model=8, max_len=LENGTH, dropout=0.0, **sizes)
    return filled(make, "float64", noise)
