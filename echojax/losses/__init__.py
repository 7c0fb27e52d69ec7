"""Training losses: full softmax, and losses against drawn negatives.

P is the number of predictions a row makes, K the number of negatives of each.
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

# Each but the softmax with the negatives a target has unless told: as published, where it was.
LOSSES = {"softmax": 0, "sampled-softmax": 256, "gbce": 256, "bce": 1, "bpr": 1}
_OURS = tuple(LOSSES)
_registered: dict[str, Formula] = {}


def register_loss(name: str, *, negatives: int = 256) -> Callable[[Formula], Formula]:
    """Make a formula over a target and drawn items a loss of that name, for ``--loss``.

    Args:
        name: letters, digits, and ``. _ -``. A formula that is registered again takes its place.
        negatives: K, how many items are drawn against a target unless ``--negatives`` says.

    The formula is ``formula(target_BxP, negative_BxPxK, log_q) -> (B, P)``, a loss for each
    prediction, from logits. A negative that is the target itself has the logit minus infinity.
    ``log_q`` holds the logs of the probabilities with which the negatives are drawn, and broadcasts
    against them.

    Raises:
        UserError: the name is echojax's own.
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
