"""Training losses: full softmax, and losses against drawn negatives.

P is the number of predictions a row makes, K the number of negatives of each.
"""

from functools import partial

import numpy as np

from echojax.losses.negatives import NEGATIVES, pool
from echojax.losses.sampled import Formula, bpr, gbce, sampled_loss, sampled_softmax
from echojax.losses.softmax import Loss, full_softmax, softmax_cross_entropy

__all__ = ["Loss", "full_softmax", "make_loss", "pool", "softmax_cross_entropy"]

# How many negatives a target has unless told: as published, where the loss was.
_NUM_NEGATIVES = {"sampled-softmax": 256, "gbce": 256, "bce": 1, "bpr": 1}


def make_loss(
    name: str = "softmax",
    *,
    counts_V: np.ndarray,
    negatives: int | None = None,
    negative_sampling: str | None = None,
    gbce_t: float | None = None,
    label_smoothing: float = 0.0,
    axis: str | None = None,
) -> Loss:
    """Return a training loss.

    Args:
        name: softmax, sampled-softmax, gbce, bce or bpr.
        counts_V: how often each item is a training target, 0 for padding.
        negatives: K (None: 256; bce and bpr 1).
        negative_sampling: uniform (None), popularity or in-batch.
        gbce_t: gBCE's calibration (None: 0.75).
        label_smoothing: share of a target that is spread over all items, of the softmax.
        axis: the mapped axis that the item table is spread over.
    """
    if name == "softmax":
        return partial(
            full_softmax, label_smoothing=label_smoothing, axis=axis, num_items=len(counts_V)
        )
    num = negatives or _NUM_NEGATIVES[name]
    formula: dict[str, Formula] = {
        "sampled-softmax": sampled_softmax,
        "gbce": gbce(0.75 if gbce_t is None else gbce_t, num, len(counts_V)),
        "bce": gbce(0.0, num, len(counts_V)),
        "bpr": bpr,
    }
    draw = NEGATIVES[negative_sampling or "uniform"](counts_V)
    return sampled_loss(formula[name], draw, num, axis)
