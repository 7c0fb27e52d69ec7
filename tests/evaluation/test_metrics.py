import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojax.data import Examples, leave_one_out
from echojax.evaluation import Ranked, bootstrap_intervals, metric_names, summarise
from echojax.evaluation.metrics import metrics_of


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_metrics_follow_their_formulas(ranks):
    values = dict(zip(metric_names(), metrics_of(np.array(ranks, np.int32)).T, strict=True))
    for k in (5, 10, 20):
        for m, rank in enumerate(ranks):
            assert values[f"hr@{k}"][m] == (rank <= k)
            assert values[f"ndcg@{k}"][m] == pytest.approx((rank <= k) / math.log2(1 + rank))
            assert values[f"mrr@{k}"][m] == pytest.approx((rank <= k) / rank)


def test_names_stand_in_order():
    kinds = ("hr", "ndcg", "mrr")
    assert metric_names() == [f"{kind}@{cutoff}" for kind in kinds for cutoff in (5, 10, 20)]


@pytest.fixture
def examples(make_dataset):
    # Histories of the test targets are one shorter: they lie where buckets begin and end.
    lengths = [3, 5, 6, 11, 20, 101, 201, 251]
    return leave_one_out(make_dataset([[1] * n for n in lengths], 41), max_len=10).test


RANKS = np.array([1, 2, 11, 5, 21, 10, 3, 400], np.int32)


def shown(*rows):
    return np.array([[*row, *[0] * (10 - len(row))] for row in rows], np.int32)


def test_a_summary_holds_means_intervals_coverage_and_popularity(examples):
    top = shown([1, 2], [1, 2], [2, 3], [1], [1], [1], [1], [])
    popularity = np.zeros(41, np.int64)
    popularity[:4] = [1000, 8, 4, 2]  # padding's count is never looked at
    result = summarise(Ranked(RANKS, top), examples, popularity)
    assert result["examples"] == 8
    assert result["hr@5"] == 4 / 8
    assert result["hr@10"] == 5 / 8
    assert result["hr@20"] == 6 / 8
    assert result["mrr@5"] == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 3) / 8)
    assert result["ndcg@5"] == pytest.approx(sum(1 / math.log2(1 + r) for r in (1, 2, 5, 3)) / 8)
    assert result["coverage@10"] == 3 / 40
    assert result["mean_popularity@10"] == pytest.approx((6 * 8 + 3 * 4 + 1 * 2) / 10)
    for name in metric_names():
        low, high = result["interval"][name]
        assert 0 <= low <= result[name] <= high <= 1
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_buckets_of_length_part_the_examples(examples):
    result = summarise(Ranked(RANKS, shown(*[[1]] * 8)), examples, np.ones(41, np.int64))
    buckets = result["by_length"]
    assert [(b["from"], b["to"], b["examples"]) for b in buckets] == [
        (1, 4, 2),
        (5, 9, 1),
        (10, 19, 2),
        (100, 199, 1),
        (200, None, 2),
    ]
    assert [b["hr@10"] for b in buckets] == [1, 0, 0.5, 1, 0.5]
    assert buckets[4]["ndcg@10"] == pytest.approx(1 / math.log2(4) / 2)
    weighted = sum(b["examples"] * b["ndcg@10"] for b in buckets)
    assert weighted / result["examples"] == pytest.approx(result["ndcg@10"])
    for bucket in buckets:
        low, high = bucket["interval"]["hr@10"]
        assert low <= bucket["hr@10"] <= high


def test_intervals_of_users_with_several_examples_are_drawn_by_user():
    user = np.repeat(np.arange(6), [1, 5, 1, 3, 1, 5]).astype(np.int32)
    position = np.arange(1, 17)
    several = Examples(np.ones(17, np.int32), np.zeros(16, np.int64), position, user, 4)
    ranks = np.where(user % 2, 1, 40).astype(np.int32)
    result = summarise(Ranked(ranks, shown(*[[]] * 16)), several, np.ones(41, np.int64))
    by_user = bootstrap_intervals(ranks[:, None] <= 10, user)[0].tolist()
    assert result["interval"]["hr@10"] == by_user
    assert by_user != bootstrap_intervals(ranks[:, None] <= 10, position)[0].tolist()
    inside = position < 5  # the first bucket of lengths
    expected = bootstrap_intervals(ranks[inside, None] <= 10, user[inside])[0].tolist()
    assert result["by_length"][0]["interval"]["hr@10"] == expected


def test_nothing_recommended_is_no_error(examples):
    result = summarise(Ranked(RANKS, shown(*[[]] * 8)), examples, np.ones(41, np.int64))
    assert result["coverage@10"] == 0
    assert result["mean_popularity@10"] == 0
