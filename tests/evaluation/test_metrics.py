import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echojax.data import Examples, leave_one_out
from echojax.errors import UserError
from echojax.evaluation.metrics import (
    calibration_error,
    check_cutoffs,
    example_metrics,
    list_metrics,
    measure,
    metric_names,
    metrics_of,
    named_metrics,
    summarise,
)
from echojax.evaluation.ranking import Ranked
from echojax.evaluation.statistics import bootstrap_intervals


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_metrics_follow_their_formulas(ranks):
    values = dict(zip(metric_names(), metrics_of(np.array(ranks, np.int32)).T, strict=True))
    for k in (5, 10, 20):
        for m, rank in enumerate(ranks):
            assert values[f"hr@{k}"][m] == (rank <= k)
            assert values[f"ndcg@{k}"][m] == pytest.approx((rank <= k) / math.log2(1 + rank))
            assert values[f"mrr@{k}"][m] == pytest.approx((rank <= k) / rank)


def test_other_names_of_one_relevant_item():
    names = named_metrics(["recall", "precision", "map", "recall@3"], (2, 4))
    assert names == ["recall@2", "recall@4", "precision@2", "precision@4", "map@2", "map@4",
                     "recall@3"]  # fmt: skip
    found = example_metrics(np.array([1, 3, 5]), names)
    assert found.tolist() == [
        [1, 1, 1 / 2, 1 / 4, 1, 1, 1],
        [0, 1, 0, 1 / 4, 0, 1 / 3, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize(
    ("metrics", "cutoffs", "says"),
    [
        (["recal"], (5,), "unknown metric 'recal'; did you mean 'recall'"),
        (["hr@0"], (5,), "unknown metric 'hr@0'"),
        (["ece@5"], (5,), "unknown metric 'ece@5'"),
        ([3], (5,), "unknown metric 3"),
        ([], (5,), "--metrics names no metric; give one or more"),
        (["hr"], (), "--ks names no cutoff; give one or more"),
        (None, (0,), "--ks takes whole numbers of at least 1, such as 5,10, not 0"),
        (None, (True,), "not True"),
        (None, (2.5,), "not 2.5"),
        (["hr"], ("5",), "not '5'"),
    ],
)
def test_odd_names_and_cutoffs_are_one_line(metrics, cutoffs, says):
    with pytest.raises(UserError) as refused:
        named_metrics(metrics, cutoffs)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_cutoff_is_among_the_items():
    check_cutoffs(["hr@7", "ece", "mrr@20"], 7)  # 20 is one that every run reports
    with pytest.raises(UserError, match="gini@8: there are only 7 items; name a smaller cutoff"):
        check_cutoffs(["hr@7", "gini@8"], 7)


def of_targets(*targets):
    """Return examples of these target items, one a user."""
    items_T = np.ravel(np.column_stack([np.ones(len(targets)), targets])).astype(np.int32)
    start = np.arange(len(targets)) * 2
    return Examples(items_T, start, start + 1, np.arange(len(targets), dtype=np.int32), 4)


@st.composite
def lists(draw):
    items, users = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    popularity = [0, *draw(st.lists(st.integers(0, 9), min_size=items, max_size=items))]
    some = st.lists(st.integers(1, items), max_size=10, unique=True)
    rows = draw(st.lists(some, min_size=users, max_size=users))
    number = st.tuples(st.integers(1, items), st.integers(1, items))
    pairs = draw(st.lists(number, min_size=users, max_size=users))
    return np.array(popularity), rows, pairs, draw(st.integers(1, 10))


@given(lists())
@settings(deadline=None)
def test_lists_follow_their_definitions(case):
    popularity, rows, pairs, k = case
    items, total = len(popularity) - 1, max(1, popularity.sum())
    times, seen, information, surprises = [0] * items, 0, 0.0, 0
    popular = 0
    for row, (rank, target) in zip(rows, pairs, strict=True):
        for item in row[:k]:
            seen += 1
            times[item - 1] += 1
            popular += popularity[item]
            information -= math.log2(max(1, popularity[item]) / total)
        before = sum(popularity[v] >= popularity[target] for v in range(1, items + 1))
        surprises += rank <= k and before > k
    spread = sum(abs(a - b) for a in times for b in times)
    expected = {
        "coverage": sum(n > 0 for n in times) / items,
        "mean_popularity": popular / max(1, seen),
        "novelty": information / max(1, seen),
        "gini": spread / (2 * items * max(1, seen)),  # half the relative mean difference
        "serendipity": surprises / len(rows),
    }
    ranks, targets = np.array(pairs, np.int32).T
    found = list_metrics(Ranked(ranks, shown(*rows)), of_targets(*targets), popularity, k)
    assert found == {f"{name}@{k}": pytest.approx(value) for name, value in expected.items()}


def test_calibration_by_hand():
    """Two bins: (.2, .2667] with one of two right, (.8667, .9333] with one right."""
    confidence = np.array([0.25, 0.22, 0.9], np.float32)
    error = calibration_error(confidence, np.array([True, False, True]))
    assert error == pytest.approx((abs(0.25 + 0.22 - 1) + abs(0.9 - 1)) / 3)
    assert calibration_error(np.array([0.0, 1.0], np.float32), np.array([False, True])) == 0
    # Bins are closed above: 1 is in the last, with 0.95.
    error = calibration_error(np.array([1.0, 0.95], np.float32), np.array([False, True]))
    assert error == pytest.approx((1 + 0.95 - 1) / 2)


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=40))
def test_calibration_follows_its_definition(pairs):
    error = 0.0
    for b in range(15):
        inside = [(c, r) for c, r in pairs if b / 15 < c <= (b + 1) / 15 or (b == 0 and c == 0)]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            right = sum(r for _, r in inside) / len(inside)
            error += len(inside) / len(pairs) * abs(confidence - right)
    confidence, right = map(np.array, zip(*pairs, strict=True))
    assert calibration_error(confidence.astype(np.float32), right) == pytest.approx(error)


def test_measured_are_those_that_are_asked_for():
    ranked = Ranked(np.array([1, 2, 4], np.int32), shown([1, 2, 3], [2, 3], [2, 1]))
    confidence = ranked._replace(confidence_M=np.full(3, 1 / 3, np.float32))
    examples, popularity = of_targets(1, 3, 3), np.array([0, 4, 4, 4])
    names = ["ece", "novelty@1", "recall@2", "gini@2"]
    found = measure(confidence, examples, popularity, names)
    assert list(found) == [*names, "interval", "examples"]
    assert found["recall@2"] == 2 / 3
    assert found["novelty@1"] == pytest.approx(math.log2(3))
    assert found["ece"] == pytest.approx(0, abs=1e-7)
    assert list(found["interval"]) == ["recall@2"]
    assert measure(ranked, examples, popularity, ["coverage@1"])["interval"] == {}
    with pytest.raises(UserError, match="ece is of a learned model"):
        measure(ranked, examples, popularity, names)
    assert "ece" not in summarise(ranked, examples, popularity)
    assert summarise(confidence, examples, popularity)["ece"] == found["ece"]


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
