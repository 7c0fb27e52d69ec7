"""Ranking of dense scores in NumPy, by the rule of ``ranking``, and the baselines of every run.

These are popularity, first-order Markov, the lagged count, and the optimum if it is known.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from echojax.config import Config
from echojax.data import Dataset, Examples, Split
from echojax.evaluation.metrics import mean_metrics, summarise
from echojax.evaluation.ranking import TOP, Ranked, seen
from echojax.models import HEURISTICS
from echojax.models.heuristic import (
    HeuristicModel,
    LaggedCount,
    Markov,
    Popularity,
    training_counts,
)

_TILE_SCORES = 2**18  # how many scores are held at once: 2 MB stay in the cache

# The settings of the lagged count among which validation chooses, and on how many examples.
_LAGS, _DAMPINGS = (1, 2, 4, 8), (0.0, 0.5, 1.0)
_TO_CHOOSE = 2**12
_MOST_SCORES = 2**33  # of a baseline, on validation or test: minutes; beyond, a sample is ranked

Scorer = Callable[[Examples, np.ndarray], np.ndarray]  # (examples, indices) -> (B, V)


def rank_in_scores(
    scores_BxV: np.ndarray,
    targets_B: np.ndarray,
    excluded_BxS: np.ndarray | None = None,
    *,
    top: int = TOP,
) -> Ranked:
    """Rank targets by dense scores, which are not changed; column 0 is padding.

    Excluded items, padded with 0, are not candidates, unless they are the target. ``top`` is the
    number of best items to return.
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
    """Return the k best columns of each row, by descending score, then column; 0 for no score.

    The scores are overwritten. Taking the first maximum ten times is faster than np.partition, and
    breaks ties by number.
    """
    rows_B = np.arange(len(scores_BxV))
    top_BxK = np.zeros((rows_B.size, k), np.int32)
    for place in range(k):
        best_B = np.argmax(scores_BxV, axis=1)
        top_BxK[:, place] = np.where(scores_BxV[rows_B, best_B] > -np.inf, best_B, 0)
        scores_BxV[rows_B, best_B] = -np.inf
    return top_BxK


def rank_by(
    score: Scorer, examples: Examples, num_items: int, *, exclude_seen: bool, top: int = TOP
) -> Ranked:
    """Rank every example's target by dense scores, in tiles of users."""
    batch_size, parts = max(1, _TILE_SCORES // num_items), []
    for first in range(0, len(examples), batch_size):
        rows = np.arange(first, min(first + batch_size, len(examples)))
        targets = examples.items_T[examples.target_M[rows]]
        excluded = seen(examples, rows) if exclude_seen else None
        parts.append(rank_in_scores(score(examples, rows), targets, excluded, top=top))
    ranks, tops, _ = zip(*parts, strict=True)
    return Ranked(np.concatenate(ranks), np.concatenate(tops))


def fit_heuristic(config: Config, split: Split, num_items: int) -> HeuristicModel:
    """Fit the heuristic model that ``config`` names."""
    if HEURISTICS[config.model] is not LaggedCount:
        return HEURISTICS[config.model](split.train, num_items)
    return choose_lagged_count(
        split,
        num_items,
        exclude_seen=config.exclude_seen,
        lags=config.lags,
        damping=config.damping,
    )


def choose_lagged_count(
    split: Split,
    num_items: int,
    *,
    exclude_seen: bool = False,
    lags: int | None = None,
    damping: float | None = None,
) -> LaggedCount:
    """Return the lagged count with the best NDCG@10 on up to 4,096 validation examples.

    ``lags`` (J) and ``damping`` (a) are chosen only if they are not given.
    """
    examples = _at_most(_TO_CHOOSE, split.valid)

    def ndcg(model: LaggedCount) -> float:
        ranked = rank_by(model, examples, num_items, exclude_seen=exclude_seen, top=0)
        return mean_metrics(ranked.rank_M)["ndcg@10"]

    models = (
        counted.damped(a)
        for j in (_LAGS if lags is None else (lags,))
        for counted in [LaggedCount(split.train, num_items, lags=j)]
        for a in (_DAMPINGS if damping is None else (damping,))
    )
    # If both are given, there is nothing to choose.
    return next(models) if None not in (lags, damping) else max(models, key=ndcg)


def _at_most(most: int, examples: Examples) -> Examples:
    """Return as many examples, evenly spaced by number, or all if they are fewer."""
    size = len(examples)
    return examples.at(np.linspace(0, size - 1, min(size, most)).astype(np.int64))


def evaluate_baselines(
    dataset: Dataset, split: Split, *, exclude_seen: bool = False
) -> dict[str, dict[str, Any]]:
    """Return the results of each baseline on validation and test, in the form of ``summarise``.

    Those of the lagged count also have its ``lags`` and ``damping``, chosen by validation. Of very
    many users and items, a sample of the examples is ranked, whose number the results have.
    """
    num_items = dataset.num_items
    lagged_count = choose_lagged_count(split, num_items, exclude_seen=exclude_seen)
    scorers: dict[str, Scorer] = {
        "popularity": Popularity(split.train, num_items),
        "markov": Markov(split.train, num_items),
        "lagged-count": lagged_count,
    }
    if dataset.optimum is not None:
        scorers["optimum"] = dataset.optimum
    counts_V = training_counts(split.train, num_items)
    results: dict[str, dict[str, Any]] = {}
    for name, score in scorers.items():
        results[name] = {}
        for part, every in (("valid", split.valid), ("test", split.test)):
            examples = _at_most(max(1, _MOST_SCORES // num_items), every)
            ranked = rank_by(score, examples, num_items, exclude_seen=exclude_seen)
            results[name][part] = summarise(ranked, examples, counts_V)
    results["lagged-count"] |= {"lags": lagged_count.lags, "damping": lagged_count.damping}
    return results
