"""What a model must beat: popularity, first-order Markov, and the optimum where it is known."""

from collections.abc import Callable
from typing import Any

import numpy as np

from echojax.data import Dataset, Examples, Split
from echojax.evaluation.dense_ranking import rank_in_scores
from echojax.evaluation.metrics import summarise
from echojax.evaluation.ranking import Ranked, seen
from echojax.models.heuristic import HeuristicModel, Markov, Popularity, training_counts

_TILE_SCORES = 2**18  # scores held at once: 2 MB stay in the cache

Scorer = Callable[[Examples, np.ndarray], np.ndarray]  # (examples, indices) -> (B, V)


def scorer(model: HeuristicModel) -> Scorer:
    """Return a function that scores examples by a heuristic model."""

    def score(examples: Examples, indices: np.ndarray) -> np.ndarray:
        shown = examples.gather(indices)
        return model.scores(shown["item_ids"], shown["lengths"])

    return score


def rank_by(score: Scorer, examples: Examples, num_items: int, *, exclude_seen: bool) -> Ranked:
    """Rank every example's target by dense scores, in tiles of users."""
    batch_size = max(1, _TILE_SCORES // num_items)
    parts = []
    for first in range(0, len(examples), batch_size):
        rows = np.arange(first, min(first + batch_size, len(examples)))
        excluded = seen(examples, rows) if exclude_seen else None
        targets = examples.items_T[examples.target_M[rows]]
        parts.append(rank_in_scores(score(examples, rows), targets, excluded))
    return Ranked(*(np.concatenate(column) for column in zip(*parts, strict=True)))


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
