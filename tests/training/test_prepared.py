"""What a configuration stands for: a ranker of the model as it is served, not as it is trained."""

import numpy as np
import pytest
from flax import nnx

from echojax.config import Config
from echojax.data import Dataset, leave_one_out
from echojax.evaluation import rank_in_scores
from echojax.mesh import one_device
from echojax.models import MODELS
from echojax.training.builders import resolved
from echojax.training.evaluate import make_evaluator
from tests.models.promises import ITEMS, build

KNOWN = ITEMS - 3  # rows of the table after these only fill it up


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_an_evaluator_ranks_the_items_by_the_models_scores_without_dropout(exclude_seen):
    rng = np.random.default_rng(0)
    dataset = Dataset(
        name="x", items_T=rng.integers(1, KNOWN, 60).astype(np.int32), times_T=np.arange(60.0),
        offsets=np.arange(0, 61, 6), user_ids=np.arange(10).astype(str),
        item_ids=np.arange(KNOWN).astype(str), fingerprint={},
    )  # fmt: skip
    config = resolved(Config(model="caser", d_model=8, max_len=7, exclude_seen=exclude_seen))
    split = leave_one_out(dataset, 7)
    model = build(MODELS["caser"], dropout=0.5)
    evaluate = make_evaluator(config, dataset, split, nnx.graphdef(model), one_device())
    ranked = evaluate.rank(nnx.state(model), "test")

    shown = split.test.gather(np.arange(10))
    scores = np.asarray(model.scores(shown["item_ids"], shown["lengths"]))
    seen = split.test.histories(np.arange(10))[0].reshape(10, -1) if exclude_seen else None
    expected = rank_in_scores(scores[:, :KNOWN], shown["targets"], seen)
    np.testing.assert_array_equal(ranked.rank_M, expected.rank_M)
    np.testing.assert_array_equal(ranked.top_MxK, expected.top_MxK)
    assert (rank_in_scores(scores, shown["targets"], seen).rank_M > expected.rank_M).any()
