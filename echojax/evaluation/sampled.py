"""Sampled metrics: the target ranked among a few random items; not comparable to full ranking.

Much of the literature ranks the target among 100 random items. Such numbers are several times as
large, and can order models differently (Krichene and Rendle 2020). They are computed only for
comparison with that literature, and never used to choose a model.

Dimension letters of this module: C candidates of an example, the target and its negatives.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from echojax.data import Examples
from echojax.evaluation.baselines import Scorer
from echojax.evaluation.ranking import Encode, Items, seen

NEGATIVES = 100
_TILE_KEYS = 2**21  # how many random numbers are held at once

# (examples, indices, candidates_BxC) -> scores (B, C)
CandidateScorer = Callable[[Examples, np.ndarray, np.ndarray], np.ndarray]


def draw_negatives(
    examples: Examples,
    num_items: int,
    *,
    count: int = NEGATIVES,
    weights_V: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Draw distinct items for each example, among which its target is ranked, (M, count) int32.

    Neither the target nor items of the history are drawn; if fewer than ``count`` items are left,
    the rest is 0. The result depends on the arguments only, so that every model is evaluated with
    the same negatives. ``weights_V`` are relative probabilities, such as training counts.
    """
    rng = np.random.default_rng(seed)
    weights_V = np.ones(num_items) if weights_V is None else np.asarray(weights_V, np.float64)
    drawn_MxC = np.zeros((len(examples), count), np.int32)
    batch_size = max(1, _TILE_KEYS // num_items)
    for first in range(0, len(examples), batch_size):
        rows = np.arange(first, min(first + batch_size, len(examples)))
        # The items with the smallest exponential variables of these rates are distributed as if
        # drawn one by one, in proportion to the weights of the items that are left.
        with np.errstate(divide="ignore"):
            clock_BxV = rng.standard_exponential((rows.size, num_items)) / weights_V
        clock_BxV[:, 0] = np.inf
        np.put_along_axis(clock_BxV, seen(examples, rows), np.inf, axis=1)
        targets_B = examples.items_T[examples.target_M[rows]]
        clock_BxV[np.arange(rows.size), targets_B] = np.inf
        kept = min(count, num_items)
        item_BxC = np.argpartition(clock_BxV, kept - 1, axis=1)[:, :kept]
        found_BxC = np.isfinite(np.take_along_axis(clock_BxV, item_BxC, axis=1))
        drawn_MxC[rows, :kept] = np.where(found_BxC, item_BxC, 0)
    return drawn_MxC


def rank_sampled(
    score: CandidateScorer, examples: Examples, negatives_MxC: np.ndarray, *, batch_size: int = 256
) -> np.ndarray:
    """Return each target's rank among its negatives, (M,) int32, by the rule of ``ranking``.

    ``negatives_MxC`` are from ``draw_negatives``; 0 stands for no item.
    """
    rank_M = np.empty(len(examples), np.int32)
    for first in range(0, len(examples), batch_size):
        # The last batch is padded: a smaller one would be compiled again.
        rows = np.arange(first, first + batch_size) % len(examples)
        targets_B = examples.items_T[examples.target_M[rows]]
        negatives_BxC = negatives_MxC[rows]
        scores_BxC = score(examples, rows, np.column_stack([targets_B, negatives_BxC]))
        rival_BxC = ~(scores_BxC[:, 1:] < scores_BxC[:, :1]) & (negatives_BxC > 0)
        rank_M[rows] = 1 + np.count_nonzero(rival_BxC, axis=1)
    return rank_M


def candidate_scorer(encode: Encode, items: Items, params: Any) -> CandidateScorer:
    """Return the scorer of a model, whose arguments are as for ``make_ranker``."""

    @jax.jit
    def dot(params: Any, candidates_BxC: Array, *history: Array) -> Array:
        user_BxD = encode(params, *history).astype(jnp.float32)
        item_BxCxD = items(params)[candidates_BxC].astype(jnp.float32)
        return jnp.einsum("bd,bcd->bc", user_BxD, item_BxCxD, precision=jax.lax.Precision.HIGHEST)

    def score(examples: Examples, indices: np.ndarray, candidates_BxC: np.ndarray) -> np.ndarray:
        shown = examples.gather(indices)
        history = [shown[name] for name in ("item_ids", "lengths", "gaps") if name in shown]
        return np.asarray(dot(params, candidates_BxC, *history))

    return score


def candidates_of(score: Scorer) -> CandidateScorer:
    """Return the scorer of candidates that selects from dense scores."""

    def pick(examples: Examples, indices: np.ndarray, candidates_BxC: np.ndarray) -> np.ndarray:
        return np.take_along_axis(score(examples, indices), candidates_BxC, axis=1)

    return pick
