"""What a model must beat: popularity, first-order Markov, and the optimum where it is known."""

from collections.abc import Callable
from typing import Any

import numpy as np

from echojax.data import Dataset, Examples, Split
from echojax.evaluation.dense_ranking import rank_in_scores
from echojax.evaluation.metrics import summarise
from echojax.evaluation.ranking import Ranked, seen

_TILE_SCORES = 2**18  # scores held at once: 2 MB stay in the cache

Scorer = Callable[[Examples, np.ndarray], np.ndarray]  # (examples, indices) -> (B, V)


def training_counts(train: Examples, num_items: int) -> np.ndarray:
    """Return each item's interactions in the training part, (V,) int64."""
    # All training targets, and the first item of each user, which is no one's target.
    positions = np.union1d(train.start_M, train.target_M)
    return np.bincount(train.items_T[positions], minlength=num_items)


def popularity(train: Examples, num_items: int) -> Scorer:
    """Score every item by how often it occurs in training."""
    counts_V = training_counts(train, num_items).astype(np.float64)
    return lambda examples, indices: np.broadcast_to(counts_V, (len(indices), num_items))


def markov(train: Examples, num_items: int) -> Scorer:
    """Score items by how often they followed the last one in training; popularity breaks ties."""
    before, behind = train.items_T[train.target_M - 1], train.items_T[train.target_M]
    pairs, times = np.unique(before.astype(np.int64) * num_items + behind, return_counts=True)
    starts = np.searchsorted(pairs, np.arange(num_items + 1) * num_items)
    counts_V = training_counts(train, num_items)
    backoff_V = counts_V / (counts_V.sum() + 1)  # always below one transition

    def score(examples: Examples, indices: np.ndarray) -> np.ndarray:
        scores = np.tile(backoff_V, (len(indices), 1))
        last_B = examples.items_T[examples.target_M[indices] - 1]
        lengths_B = starts[last_B + 1] - starts[last_B]
        offsets_B = np.cumsum(lengths_B) - lengths_B
        row = np.repeat(np.arange(len(indices)), lengths_B)
        entry = np.arange(row.size) + (starts[last_B] - offsets_B)[row]
        scores[row, pairs[entry] % num_items] += times[entry]
        return scores

    return score


def rank_by(scorer: Scorer, examples: Examples, num_items: int, *, exclude_seen: bool) -> Ranked:
    """Rank every example's target by a scorer, in tiles of users."""
    batch_size = max(1, _TILE_SCORES // num_items)
    parts = []
    for first in range(0, len(examples), batch_size):
        rows = np.arange(first, min(first + batch_size, len(examples)))
        excluded = seen(examples, rows) if exclude_seen else None
        targets = examples.items_T[examples.target_M[rows]]
        parts.append(rank_in_scores(scorer(examples, rows), targets, excluded))
    return Ranked(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def evaluate_baselines(
    dataset: Dataset, split: Split, *, exclude_seen: bool = False
) -> dict[str, dict[str, Any]]:
    """Return the results of each baseline on validation and test, as ``summarise`` gives them."""
    num_items = dataset.num_items
    scorers = {
        "popularity": popularity(split.train, num_items),
        "markov": markov(split.train, num_items),
    }
    if dataset.optimum is not None:
        scorers["optimum"] = dataset.optimum
    counts_V = training_counts(split.train, num_items)
    results: dict[str, dict[str, Any]] = {}
    for name, scorer in scorers.items():
        results[name] = {}
        for part, examples in (("valid", split.valid), ("test", split.test)):
            ranked = rank_by(scorer, examples, num_items, exclude_seen=exclude_seen)
            results[name][part] = summarise(ranked, examples, counts_V)
    return results
