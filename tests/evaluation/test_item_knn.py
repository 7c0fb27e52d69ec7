"""ItemKNN against its definition, counted one pair of items after the other."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojax.data import leave_one_out
from echojax.models.heuristic import ItemKNN

ITEMS = 9
HISTORIES = st.lists(
    st.lists(st.integers(1, ITEMS - 1), min_size=3, max_size=9), min_size=1, max_size=6
).filter(lambda histories: any(len(history) > 3 for history in histories))


def similarity(histories):
    """Return the cosines between items, by the users who have either in their training part."""
    # A user of three has one training item, no training example, and so no say.
    parts = [set(history[:-2]) for history in histories if len(history) > 3]
    cosines = np.zeros((ITEMS, ITEMS))
    for v in range(ITEMS):
        for w in range(ITEMS):
            both, one, other = (sum(need <= part for part in parts) for need in ({v, w}, {v}, {w}))
            if v != w and both:
                cosines[v, w] = both / math.sqrt(one * other)
    return cosines


def scores_of(model, history):
    return model.scores(np.array([[*history, 0]], np.int32), np.array([len(history)]))[0]


@given(HISTORIES, st.lists(st.integers(1, ITEMS - 1), min_size=1, max_size=5))
def test_scores_are_cosines_that_fade_with_age(make_dataset, histories, history):
    model = ItemKNN(leave_one_out(make_dataset(histories, ITEMS), max_len=4).train, ITEMS)
    cosines = similarity(histories)
    expected = sum(cosines[item] / (1 + age) for age, item in enumerate(reversed(history)))
    np.testing.assert_allclose(scores_of(model, history), expected, rtol=1e-12)


@pytest.mark.parametrize("at_once", [1, 4 * ITEMS, 1000])
def test_each_item_keeps_its_nearest(make_dataset, monkeypatch, at_once):
    monkeypatch.setattr("echojax.models.heuristic._SIMILARITIES", at_once)
    monkeypatch.setattr("echojax.models.heuristic._NEIGHBOURS", 3)
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, ITEMS, rng.integers(5, 12)).tolist() for _ in range(7)]
    model = ItemKNN(leave_one_out(make_dataset(histories, ITEMS), max_len=4).train, ITEMS)
    for item, cosines in enumerate(similarity(histories)):
        kept = scores_of(model, [item])
        nearest = np.sort(cosines)[-3:]
        np.testing.assert_allclose(np.sort(kept), [*[0] * (ITEMS - 3), *nearest], rtol=1e-12)
        np.testing.assert_allclose(kept[kept > 0], cosines[kept > 0], rtol=1e-12)
