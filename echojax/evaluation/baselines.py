"""Dense scores ranked in NumPy, by the rule of ``ranking``, and what a model must beat.

That is popularity, first-order Markov, and the optimum where it is known.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from echojax.data import Dataset, Examples, Split
from echojax.evaluation.metrics import summarise
from echojax.evaluation.ranking import TOP, Ranked, seen
from echojax.models.heuristic import HeuristicModel, Markov, Popularity, training_counts

_TILE_SCORES = 2**18  # scores held at once: 2 MB stay in the cache

Scorer = Callable[[Examples, np.ndarray], np.ndarray]  # (examples, indices) -> (B, V)


def rank_in_scores(
    scores_BxV: np.ndarray,
    targets_B: np.ndarray,
    excluded_BxS: np.ndarray | None = None,
    *,
    top: int = TOP,
) -> Ranked:
    """Rank targets in dense scores.

    Args:
        scores_BxV: any float dtype, column 0 is padding. Not changed.
        targets_B: item numbers.
        excluded_BxS: items that are no candidates, padded with 0; a target stays one.
        top: how many of the best items are kept.
    """
    rows_B = np.arange(len(targets_B))
    out_BxV = np.isnan(scores_BxV)  # never recommended
    rival_BxV = ~(scores_BxV < scores_BxV[rows_B, targets_B][:, None])
    if excluded_BxS is not None:
        kept_B = out_BxV[rows_B, targets_B]
        out_BxV[rows_B[:, None], excluded_BxS] = True
        out_BxV[rows_B, targets_B] = kept_B
        rival_BxV[rows_B[:, None], excluded_BxS] = False
    out_BxV[:, 0] = True
    rival_BxV[:, 0] = False
    rival_BxV[rows_B, targets_B] = False
    rank_B = 1 + np.count_nonzero(rival_BxV, axis=1).astype(np.int32)
    return Ranked(rank_B, _top(np.where(out_BxV, -np.inf, scores_BxV), top))


def _top(scores_BxV: np.ndarray, k: int) -> np.ndarray:
    """Return each row's k best columns by falling score, then column; 0 for minus infinity.

    The scores are used up. Taking the first maximum ten times is faster than np.partition, and
    settles ties.
    """
    rows_B = np.arange(len(scores_BxV))
    top_BxK = np.zeros((rows_B.size, k), np.int32)
    for place in range(k):
        best_B = np.argmax(scores_BxV, axis=1)
        top_BxK[:, place] = np.where(scores_BxV[rows_B, best_B] > -np.inf, best_B, 0)
        scores_BxV[rows_B, best_B] = -np.inf
    return top_BxK


def scorer(model: HeuristicModel) -> Scorer:
    """Return a function that scores examples by a heuristic model."""

    def score(examples: Examples, indices: np.ndarray) -> np.ndarray:
        shown = examples.gather(indices)
        return model.scores(shown["item_ids"], shown["lengths"])

    return score


def rank_by(
    score: Scorer, examples: Examples, num_items: int, *, exclude_seen: bool, top: int = TOP
) -> Ranked:
    """Rank every example's target by dense scores, in tiles of users."""
    batch_size = max(1, _TILE_SCORES // num_items)
    parts = []
    for first in range(0, len(examples), batch_size):
        rows = np.arange(first, min(first + batch_size, len(examples)))
        excluded = seen(examples, rows) if exclude_seen else None
        targets = examples.items_T[examples.target_M[rows]]
        parts.append(rank_in_scores(score(examples, rows), targets, excluded, top=top))
    ranks, tops, _ = zip(*parts, strict=True)
    return Ranked(np.concatenate(ranks), np.concatenate(tops))


def evaluate_baselines(
    dataset: Dataset, split: Split, *, exclude_seen: bool = False
) -> dict[str, dict[str, Any]]:
    """Return the results of each baseline on validation and test, as ``summarise`` gives them."""
    num_items = dataset.num_items
    scorers = {
        "popularity": scorer(Popularity(split.train, num_items)),
        "markov": scorer(Markov(split.train, num_items)),
    }
    if dataset.optimum is not None:
        scorers["optimum"] = dataset.optimum
    counts_V = training_counts(split.train, num_items)
    results: dict[str, dict[str, Any]] = {}
    for name, score in scorers.items():
        results[name] = {}
        for part, examples in (("valid", split.valid), ("test", split.test)):
            ranked = rank_by(score, examples, num_items, exclude_seen=exclude_seen)
            results[name][part] = summarise(ranked, examples, counts_V)
    return results
