"""What is to be predicted never changes a score: histories that differ in their ends alone."""

import numpy as np
import pytest
from flax import nnx

from echojax.data import leave_one_out
from echojax.evaluation.baselines import rank_by
from echojax.evaluation.ranking import make_ranker, rank_examples
from echojax.models import HEURISTICS, MODELS
from tests.models.promises import EVERY_MODEL, ITEMS, build

HISTORIES = np.random.default_rng(0).integers(1, ITEMS, (6, 9))


def ranking_of(name):
    """Return what ranks a split's test targets, and with them orders the whole catalogue."""
    if name in HEURISTICS:
        return lambda split: rank_by(
            HEURISTICS[name](split.train, ITEMS), split.test, ITEMS, exclude_seen=False
        )
    graphdef, params = nnx.split(build(MODELS[name]))
    ranker = make_ranker(
        lambda params, *history: nnx.merge(graphdef, params).encode(*history),
        lambda params: nnx.merge(graphdef, params).output_embeddings(),
    )
    return lambda split: rank_examples(ranker, params, split.test, batch_size=len(HISTORIES))


@pytest.mark.parametrize("name", [*HEURISTICS, *EVERY_MODEL])
def test_other_targets_leave_every_score_as_it_was(name, make_dataset):
    others = HISTORIES.copy()
    others[:, -1] = 1 + others[:, -1] % (ITEMS - 1)
    rank = ranking_of(name)
    before, after = (
        rank(leave_one_out(make_dataset(histories.tolist(), ITEMS), max_len=7))
        for histories in (HISTORIES, others)
    )
    np.testing.assert_array_equal(before.top_MxK, after.top_MxK)
    assert (before.rank_M != after.rank_M).any()
    if name not in HEURISTICS:  # whose ties are many, and count against the target
        places = np.argsort(before.top_MxK[:, : ITEMS - 1], axis=1)
        for ranked, histories in ((before, HISTORIES), (after, others)):
            targets = histories[:, -1] - 1
            np.testing.assert_array_equal(
                ranked.rank_M, 1 + np.take_along_axis(places, targets[:, None], axis=1)[:, 0]
            )
