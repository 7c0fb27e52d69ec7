import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from echojax.evaluation.baselines import rank_in_scores

SCORES = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.inf, np.nan])


@st.composite
def tiles(draw):
    users, items = draw(st.integers(1, 4)), draw(st.integers(2, 25))
    row = st.lists(SCORES, min_size=items, max_size=items)
    scores = np.array(draw(st.lists(row, min_size=users, max_size=users)))
    item = st.integers(1, items - 1)
    targets = np.array(draw(st.lists(item, min_size=users, max_size=users)))
    width = draw(st.integers(1, 6))
    seen = st.lists(st.integers(0, items - 1), min_size=width, max_size=width)
    excluded = np.array(draw(st.lists(seen, min_size=users, max_size=users)))
    return scores, targets, draw(st.sampled_from([None, excluded]))


@given(tiles())
def test_ranks_and_recommendations_follow_the_definition(by_definition, tile):
    scores, targets, excluded = tile
    before = scores.copy()
    ranked = rank_in_scores(scores, targets, excluded)
    for b, target in enumerate(targets):
        rank, top = by_definition(scores[b], target, () if excluded is None else excluded[b])
        assert ranked.rank_M[b] == rank
        assert ranked.top_MxK[b].tolist() == top
    np.testing.assert_array_equal(scores, before)


def test_read_only_float32_scores_are_accepted():
    scores = np.broadcast_to(np.array([0, 1, 2], np.float32), (4, 3))
    assert rank_in_scores(scores, np.array([1, 2, 1, 2])).rank_M.tolist() == [2, 1, 2, 1]
