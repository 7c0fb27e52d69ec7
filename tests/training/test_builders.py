"""A ranker of the model as it is served; how narrow a step's windows may be cut."""

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from echojax.config import Config
from echojax.data import leave_one_out
from echojax.evaluation.baselines import rank_in_scores
from echojax.mesh import one_device
from echojax.models import MODELS
from echojax.training.builders import (
    choose_columns,
    choose_microbatch,
    resolved,
    target_counts,
)
from echojax.training.evaluate import make_evaluator
from tests.evaluation.conftest import dataset_of
from tests.models.promises import ITEMS, build

KNOWN = ITEMS - 3  # rows of the table after these only fill it up


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_an_evaluator_ranks_the_items_by_the_models_scores_without_dropout(exclude_seen):
    rng = np.random.default_rng(0)
    dataset = dataset_of(rng.integers(1, KNOWN, (10, 6)), KNOWN)
    config = resolved(Config(model="caser", d_model=8, max_len=7, exclude_seen=exclude_seen))
    split = leave_one_out(dataset, 7)
    model = build(MODELS["caser"], dropout=0.5)
    evaluate = make_evaluator(config, dataset, split, nnx.graphdef(model), one_device())
    ranked = evaluate.rank(nnx.state(model), "test")

    shown = split.test.gather(np.arange(10))
    scores = np.asarray(jax.jit(model.scores)(shown["item_ids"], shown["lengths"]))
    seen = split.test.histories(np.arange(10))[0].reshape(10, -1) if exclude_seen else None
    expected = rank_in_scores(scores[:, :KNOWN], shown["targets"], seen)
    np.testing.assert_array_equal(ranked.rank_M, expected.rank_M)
    np.testing.assert_array_equal(ranked.top_MxK, expected.top_MxK)
    assert (rank_in_scores(scores, shown["targets"], seen).rank_M > expected.rank_M).any()


def test_targets_are_counted_without_the_first_item_of_a_history():
    dataset = dataset_of([[1, 2, 2, 3, 3]], 4)
    assert target_counts(dataset, leave_one_out(dataset, 7)).tolist() == [0, 0, 2, 0]


def positions(lengths, widths):
    """Return how many positions are computed where each example takes the first that holds it."""
    return sum(
        next((width for width in sorted(widths) if width > length), max(widths))
        for length in lengths
    )


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(1, 20))
@settings(deadline=None)
def test_each_width_spares_a_tenth_and_no_other_would(lengths, max_len):
    lengths = np.minimum(lengths, max_len)
    chosen = choose_columns(lengths, max_len, worth=0)
    assert chosen == sorted(set(chosen))
    assert all(1 < width < max_len for width in chosen)
    now = positions(lengths, [*chosen, max_len])
    assert now <= 0.9 ** len(chosen) * max_len * lengths.size * (1 + 1e-9)
    for width in range(1, max_len):
        assert positions(lengths, [*chosen, width, max_len]) > 0.9 * now - 1e-9


@pytest.mark.parametrize(
    ("lengths", "max_len", "widths"),
    [([50] * 9, 50, []), ([3] * 9, 50, [4]), ([3] * 9 + [20] * 3, 50, [4, 21]), ([1], 1, [])],
)
def test_widths_hold_what_is_frequent(lengths, max_len, widths):
    assert choose_columns(np.array(lengths), max_len, worth=0) == widths


def test_a_width_that_spares_too_little_to_pay_for_its_compilation_is_not_chosen():
    lengths = np.array([3] * 1000)
    assert choose_columns(lengths, 50, worth=46_000) == [4]
    assert choose_columns(lengths, 50, worth=46_001) == []


@pytest.mark.parametrize(
    ("lengths", "columns", "size"),
    [([50], [], 64), ([4], [5], 64), ([4] * 999 + [49], [5], 64), ([4] * 7 + [49], [5], 16)],
    ids=["long", "short", "one long of 1000", "one long of 8"],
)
def test_a_microbatch_is_small_where_that_leaves_less_padding(lengths, columns, size):
    config = resolved(Config(model="sasrec", max_len=50, batch_size=128))
    assert choose_microbatch(config, 128, 1000, np.array(lengths), columns) == size
