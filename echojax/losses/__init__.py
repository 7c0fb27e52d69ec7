"""Training losses: the full softmax, and losses with sampled negatives.

P is the number of predictions per row, and K the number of negatives of each.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from echojax.losses.negatives import NEGATIVES, pool
from echojax.losses.sampled import Formula, bpr, gbce, sampled_loss, sampled_softmax
from echojax.losses.softmax import Loss, full_softmax, softmax_cross_entropy
from echojax.plugins import check_new_name

__all__ = [
    "LOSSES",
    "Formula",
    "Loss",
    "full_softmax",
    "make_loss",
    "pool",
    "register_loss",
    "softmax_cross_entropy",
]

# Losses, with the default number of negatives per target: the published one, if there is one.
LOSSES = {"softmax": 0, "sampled-softmax": 256, "gbce": 256, "bce": 1, "bpr": 1}
_OURS = tuple(LOSSES)
_registered: dict[str, Formula] = {}


def register_loss(name: str, *, negatives: int = 256) -> Callable[[Formula], Formula]:
    """Register a formula over a target and sampled negatives as a loss, for ``--loss``.

    The formula is ``formula(target_BxP, negative_BxPxK, log_q) -> (B, P)``. It returns a loss for
    each prediction, from logits. A negative that is the target itself has the logit minus infinity.
    ``log_q`` holds the logarithms of the probabilities with which the negatives are drawn, and
    broadcasts against them.

    Args:
        name: Letters, digits, and ``. _ -``. Registering a name again replaces its formula.
        negatives: K, how many items are drawn per target, unless ``--negatives`` is given.

    Raises:
        UserError: The name belongs to echojax itself.
    """
    check_new_name("loss", name, _OURS)

    def register(formula: Formula) -> Formula:
        _registered[name], LOSSES[name] = formula, negatives
        return formula

    return register


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
        name: softmax, sampled-softmax, gbce, bce, bpr, or a registered one.
        counts_V: How often each item is a training target, 0 for padding.
        negatives: K (``None``: that of ``LOSSES``).
        negative_sampling: uniform (``None``), popularity or in-batch.
        gbce_t: The calibration of gBCE (``None``: 0.75).
        label_smoothing: The share of a target that the softmax spreads over all items.
        axis: The mapped axis over which the item table is sharded.
    """
    if name == "softmax":
        return partial(
            full_softmax, label_smoothing=label_smoothing, axis=axis, num_items=len(counts_V)
        )
    num = negatives or LOSSES[name]
    formula: dict[str, Formula] = {
        "sampled-softmax": sampled_softmax,
        "gbce": gbce(0.75 if gbce_t is None else gbce_t, num, len(counts_V)),
        "bce": gbce(0.0, num, len(counts_V)),
        "bpr": bpr,
        **_registered,
    }
    draw = NEGATIVES[negative_sampling or "uniform"](counts_V)
    return sampled_loss(formula[name], draw, num, axis)
