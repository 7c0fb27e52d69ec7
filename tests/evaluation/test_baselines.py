import dataclasses
import functools
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojax.data import global_time_split, leave_one_out, load_dataset
from echojax.evaluation.baselines import choose_lagged_count, evaluate_baselines, rank_by
from echojax.evaluation.metrics import mean_metrics, metric_names
from echojax.models import HEURISTICS
from echojax.models.heuristic import ItemKNN, LaggedCount, Markov, Popularity, training_counts
from tests.models.promises import ITEMS, refuses_what_means_nothing

HISTORIES = st.lists(st.lists(st.integers(1, 7), min_size=3, max_size=9), min_size=1, max_size=6)
WITH_TRAINING = HISTORIES.filter(lambda histories: any(len(history) > 3 for history in histories))


def training_parts(histories):
    """Return the histories without their validation and test items.

    A user of three has one training item, no training example, and so no say.
    """
    return [history[:-2] for history in histories if len(history) > 3]


@given(WITH_TRAINING)
def test_scores_equal_counts_of_the_training_part(make_dataset, histories):
    split = leave_one_out(make_dataset(histories, 8), max_len=4)
    parts = training_parts(histories)
    counts = Counter(item for part in parts for item in part)
    pairs = Counter(pair for part in parts for pair in itertools.pairwise(part))
    np.testing.assert_array_equal(training_counts(split.train, 8), [counts[v] for v in range(8)])
    rows = np.arange(len(split.test))
    scores = Popularity(split.train, 8)(split.test, rows)
    np.testing.assert_array_equal(scores, [[counts[v] for v in range(8)]] * rows.size)
    scores = Markov(split.train, 8)(split.test, rows)
    for history, row in zip(histories, scores, strict=True):
        last = history[-2]
        expected = sorted(range(8), key=lambda v: (pairs[last, v], counts[v]))
        keys = [(pairs[last, v], counts[v]) for v in range(8)]
        by_score = sorted(range(8), key=lambda v: row[v])
        assert [keys[v] for v in by_score] == [keys[v] for v in expected]
        np.testing.assert_array_equal(np.floor(row), [pairs[last, v] for v in range(8)])


def similarity(histories):
    """Return the cosines between items, by the users who have either in their training part."""
    parts = [set(part) for part in training_parts(histories)]
    cosines = np.zeros((8, 8))
    for v in range(8):
        for w in range(8):
            both, one, other = (sum(need <= part for part in parts) for need in ({v, w}, {v}, {w}))
            if v != w and both:
                cosines[v, w] = both / math.sqrt(one * other)
    return cosines


def scores_of(model, history):
    return model.scores(np.array([[*history, 0]], np.int32), np.array([len(history)]))[0]


@given(WITH_TRAINING, st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_scores_are_cosines_that_fade_with_age(make_dataset, histories, history):
    model = ItemKNN(leave_one_out(make_dataset(histories, 8), max_len=4).train, 8)
    cosines = similarity(histories)
    expected = sum(cosines[item] / (1 + age) for age, item in enumerate(reversed(history)))
    np.testing.assert_allclose(scores_of(model, history), expected, rtol=1e-12)


@given(
    WITH_TRAINING,
    st.lists(st.integers(1, 7), min_size=1, max_size=7),
    st.sampled_from([(4, 0.5), (1, 0), (2, 1), (8, 0.3)]),
)
def test_lagged_counts_equal_their_definition(make_dataset, histories, history, sizes):
    lags, damping = sizes
    split = leave_one_out(make_dataset(histories, 8), max_len=9)
    model = LaggedCount(split.train, 8, lags=lags).damped(damping)
    parts = training_parts(histories)
    counts = Counter(item for part in parts for item in part)
    soon = Counter(
        (part[k], after)
        for part in parts
        for k in range(len(part))
        for after in part[k + 1 : k + 1 + lags]
    )
    expected = [
        sum(
            soon[item, v] / (j * max(1, counts[item]) ** damping)
            for j, item in enumerate(history[::-1][:lags], 1)
        )
        for v in range(8)
    ]
    np.testing.assert_allclose(scores_of(model, history), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_validation_chooses_the_lagged_count(make_dataset, exclude_seen):
    rng = np.random.default_rng(0)
    dataset = make_dataset([rng.zipf(1.3, rng.integers(5, 30)) % 40 + 1 for _ in range(60)], 42)
    split = leave_one_out(dataset, max_len=20)

    def valid(model):
        ranked = rank_by(model, split.valid, 42, exclude_seen=exclude_seen)
        return mean_metrics(ranked.rank_M)["ndcg@10"]

    choose = functools.partial(choose_lagged_count, split, 42, exclude_seen=exclude_seen)
    found = {
        (lags, damping): valid(LaggedCount(split.train, 42, lags=lags, damping=damping))
        for lags in (1, 2, 4, 8)
        for damping in (0, 0.5, 1)
    }
    assert len(set(found.values())) > 4
    chosen, told = choose(), choose(lags=2)
    assert (chosen.lags, chosen.damping) == max(found, key=found.get)
    among = [sizes for sizes in found if sizes[0] == 2]
    assert (told.lags, told.damping) == max(among, key=found.get)
    results = evaluate_baselines(dataset, split, exclude_seen=exclude_seen)["lagged-count"]
    assert results["valid"]["ndcg@10"] == found[results["lags"], results["damping"]]
    assert valid(choose(lags=3, damping=0.2)) == valid(
        LaggedCount(split.train, 42, lags=3, damping=0.2)
    )


@pytest.mark.parametrize("at_once", [1, 4 * 8, 1000])
def test_each_item_keeps_its_nearest(make_dataset, monkeypatch, at_once):
    monkeypatch.setattr("echojax.models.heuristic._SIMILARITIES", at_once)
    monkeypatch.setattr("echojax.models.heuristic._NEIGHBOURS", 3)
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, 8, rng.integers(5, 12)).tolist() for _ in range(7)]
    model = ItemKNN(leave_one_out(make_dataset(histories, 8), max_len=4).train, 8)
    for item, cosines in enumerate(similarity(histories)):
        kept = scores_of(model, [item])
        nearest = np.sort(cosines)[-3:]
        np.testing.assert_allclose(np.sort(kept), [*[0] * (8 - 3), *nearest], rtol=1e-12)
        np.testing.assert_allclose(kept[kept > 0], cosines[kept > 0], rtol=1e-12)


@pytest.mark.parametrize("name", HEURISTICS)
def test_scores_of_what_means_nothing_are_refused_and_of_nothing_are_none(make_dataset, name):
    split = leave_one_out(make_dataset([[1, 2, 1, 3, 4, 5]], ITEMS), max_len=9)
    scores = HEURISTICS[name](split.train, ITEMS).scores
    refuses_what_means_nothing(scores)
    assert scores(np.ones((0, 3), np.int32), np.array([], int)).shape == (0, ITEMS)


def test_equal_counts_are_equal_scores(make_dataset):
    split = leave_one_out(make_dataset([[1, 2, 1, 3, 4, 5]], 6), max_len=9)
    scores = Markov(split.train, 6)(split.valid, np.array([0]))[0]
    assert scores[4] == scores[5]  # neither was in training
    assert scores[2] == scores[3] > scores[4]


def test_a_split_by_time_counts_what_lies_before(make_dataset):
    split = global_time_split(make_dataset([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]], 11), max_len=10)
    assert training_counts(split.train, 11).sum() == len(split.train) + 1


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("tile_scores", [1, 60, 10**6])
def test_tiles_of_users_change_nothing(
    make_dataset, by_definition, monkeypatch, tile_scores, exclude_seen
):
    rng = np.random.default_rng(0)
    dataset = make_dataset([rng.integers(1, 30, n).tolist() for n in rng.integers(4, 20, 17)], 30)
    split = leave_one_out(dataset, max_len=5)
    monkeypatch.setattr("echojax.evaluation.baselines._TILE_SCORES", tile_scores)
    score = Markov(split.train, 30)
    ranked = rank_by(score, split.test, 30, exclude_seen=exclude_seen)
    for m, row in enumerate(score(split.test, np.arange(17))):
        position = split.test.target_M[m]
        history = dataset.items_T[split.test.start_M[m] : position] if exclude_seen else ()
        rank, top = by_definition(row, dataset.items_T[position], history)
        assert ranked.rank_M[m] == rank
        assert ranked.top_MxK[m].tolist() == top


@pytest.fixture
def chain(make_dataset):
    """Users walk 1 -> 2 -> ... -> 12 -> 1 and popularity tells nothing."""
    walks = [[(start + step) % 12 + 1 for step in range(14)] for start in range(12)]
    return make_dataset(walks, 13)


def test_markov_knows_a_chain_and_popularity_does_not(chain):
    results = evaluate_baselines(chain, leave_one_out(chain, max_len=5))
    assert set(results) == {"popularity", "markov", "lagged-count"}
    for part in ("valid", "test"):
        assert results["markov"][part]["hr@5"] == results["markov"][part]["mrr@10"] == 1
        assert results["popularity"][part]["hr@5"] < 0.7
        assert set(metric_names()) < set(results["markov"][part])
        assert results["markov"][part]["examples"] == 12


def test_of_very_many_examples_baselines_rank_a_sample(chain, monkeypatch):
    monkeypatch.setattr("echojax.evaluation.baselines._MOST_SCORES", 13 * 5 + 1)
    results = evaluate_baselines(chain, leave_one_out(chain, max_len=5))
    assert {one[part]["examples"] for one in results.values() for part in ("valid", "test")} == {5}
    assert results["markov"]["test"]["hr@5"] == 1


def test_the_optimum_is_judged_where_it_is_known(chain):
    def oracle(examples, indices):
        return np.eye(13)[examples.items_T[examples.target_M[indices]]]

    known = dataclasses.replace(chain, optimum=oracle)
    results = evaluate_baselines(known, leave_one_out(known, max_len=5))
    assert results["optimum"]["test"]["ndcg@10"] == results["optimum"]["valid"]["hr@5"] == 1


def test_leaving_out_seen_items_reaches_the_baselines(make_dataset):
    """Item 1 is the most frequent and seen by all, the targets are seen by none."""
    dataset = make_dataset([[1, 1, 2, 1, v, v + 1] for v in range(3, 23, 2)], 25)
    split = leave_one_out(dataset, max_len=6)
    kept = evaluate_baselines(dataset, split)["popularity"]["test"]
    left_out = evaluate_baselines(dataset, split, exclude_seen=True)["popularity"]["test"]
    assert left_out["mean_popularity@10"] < kept["mean_popularity@10"]


def test_the_generated_optimum_is_beaten_by_none():
    dataset = load_dataset("synthetic")
    results = evaluate_baselines(dataset, leave_one_out(dataset, max_len=50))
    low = results["optimum"]["test"]["interval"]["ndcg@10"][0]
    for name in ("popularity", "markov"):
        assert results[name]["test"]["interval"]["ndcg@10"][1] < low
