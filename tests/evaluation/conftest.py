"""Small data sets by hand, and the ranking rule spelled out item by item."""

import math

import numpy as np
import pytest

from echojax.data import Dataset


def dataset_of(histories: list[list[int]], num_items: int) -> Dataset:
    lengths = [len(history) for history in histories]
    return Dataset(
        name="by hand",
        items_T=np.array([item for history in histories for item in history], np.int32),
        times_T=np.concatenate([np.arange(n, dtype=np.float64) for n in lengths]),
        offsets=np.cumsum([0, *lengths]),
        user_ids=np.arange(len(histories)).astype(str),
        item_ids=np.array(["", *map(str, range(1, num_items))]),
        fingerprint={},
    )


def ranked_by_definition(scores, target, excluded=()):
    """Return the rank and the ten recommended items of one user, from the words of the rule."""
    candidates = [v for v in range(1, len(scores)) if v == target or v not in set(excluded)]
    rank = 1
    for v in candidates:
        if v != target and not scores[v] < scores[target]:
            rank += 1
    shown = [v for v in candidates if not math.isnan(scores[v]) and scores[v] > -math.inf]
    shown.sort(key=lambda v: (-scores[v], v))
    return rank, (shown + [0] * 10)[:10]


@pytest.fixture(scope="session")
def make_dataset():
    return dataset_of


@pytest.fixture(scope="session")
def by_definition():
    return ranked_by_definition
