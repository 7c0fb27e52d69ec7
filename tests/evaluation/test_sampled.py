"""Sampled ranks against brute force, and the draws against their exact distribution."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from echojax.data import leave_one_out
from echojax.evaluation.ranking import make_ranker, rank_examples
from echojax.evaluation.sampled import candidate_scorer, candidates_of, draw_negatives, rank_sampled

V, D = 40, 3


@pytest.fixture(scope="module")
def examples(make_dataset):
    """Return the test examples of 30 users."""
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, V, rng.integers(4, 12)).tolist() for _ in range(30)]
    return leave_one_out(make_dataset(histories, V), max_len=5).test


def encode(params, item_ids_BxL, lengths_B):
    """Return a sum that depends on what is read, exact in float32."""
    return params["item"][item_ids_BxL].sum(1) * lengths_B[:, None]


def items(params):
    return params["item"]


@pytest.fixture(scope="module")
def params():
    """Return small whole numbers: products are exact and ties common."""
    item = np.random.default_rng(1).integers(-2, 3, (V, D)).astype(np.float32)
    item[0] = 0
    return {"item": jnp.asarray(item)}


def brute_force(params, examples, negatives):
    item = np.asarray(params["item"])
    ranks = []
    for m in range(len(examples)):
        shown = examples.gather(np.array([m]))
        user = item[shown["item_ids"][0]].sum(0) * shown["lengths"][0]
        target = user @ item[shown["targets"][0]]
        ranks.append(1 + sum(v != 0 and not user @ item[v] < target for v in negatives[m]))
    return ranks


@pytest.mark.parametrize("batch_size", [7, 30, 64])
def test_ranks_equal_brute_force(examples, params, batch_size):
    negatives = draw_negatives(examples, V, count=10, seed=3)
    scorer = candidate_scorer(encode, items, params)
    found = rank_sampled(scorer, examples, negatives, batch_size=batch_size)
    assert found.tolist() == brute_force(params, examples, negatives)

    def dense(examples, indices):
        shown = examples.gather(indices)
        return np.asarray(encode(params, shown["item_ids"], shown["lengths"]) @ items(params).T)

    by_scores = rank_sampled(candidates_of(dense), examples, negatives, batch_size=batch_size)
    assert by_scores.tolist() == found.tolist()


def test_with_all_unseen_items_as_negatives_it_is_the_full_rank(examples, params):
    negatives = draw_negatives(examples, V, count=V)
    scorer = candidate_scorer(encode, items, params)
    full = rank_examples(
        make_ranker(encode, items), params, examples, batch_size=8, exclude_seen=True
    )
    assert rank_sampled(scorer, examples, negatives).tolist() == full.rank_M.tolist()


def test_not_a_number_counts_against_the_model(examples):
    negatives = draw_negatives(examples, V, count=10)

    def broken(examples, indices, candidates):
        return np.full(candidates.shape, np.nan)

    assert set(rank_sampled(broken, examples, negatives).tolist()) == {11}


def test_nothing_forbidden_is_drawn(examples):
    weights = np.zeros(V)
    weights[1:9] = 1
    for weights_V in (None, weights):
        negatives = draw_negatives(examples, V, count=20, weights_V=weights_V)
        for m, drawn in enumerate(negatives):
            history, _ = examples.histories(np.array([m]))
            target = examples.items_T[examples.target_M[m]]
            allowed = set(range(1, V)) if weights_V is None else set(range(1, 9))
            allowed -= {target, *history.tolist()}
            real = drawn[drawn > 0].tolist()
            assert len(real) == len(set(real)) == min(20, len(allowed))
            assert set(real) <= allowed


def test_the_draws_depend_on_the_seed_alone(examples, monkeypatch):
    once = draw_negatives(examples, V, count=10, seed=5)
    monkeypatch.setattr("echojax.evaluation.sampled._TILE_KEYS", 3 * V)
    np.testing.assert_array_equal(
        np.sort(draw_negatives(examples, V, count=10, seed=5)), np.sort(once)
    )
    assert np.any(np.sort(draw_negatives(examples, V, count=10, seed=6)) != np.sort(once))


def test_draws_are_one_by_one_in_proportion_to_the_weights(make_dataset):
    """Two of items 3..6 without replacement: every set's exact probability."""
    examples = leave_one_out(make_dataset([[1, 1, 1, 2]] * 20_000, 7), max_len=3).test
    weight = {3: 1, 4: 2, 5: 3, 6: 6}
    drawn = draw_negatives(examples, 7, count=2, weights_V=np.array([9, 9, 9, 1, 2, 3, 6]), seed=1)
    total = sum(weight.values())
    sets, times = np.unique(np.sort(drawn, axis=1), axis=0, return_counts=True)
    found = {tuple(pair): n / len(examples) for pair, n in zip(sets.tolist(), times, strict=True)}
    for a, b in itertools.combinations(weight, 2):
        p = sum(weight[x] / total * weight[y] / (total - weight[x]) for x, y in ((a, b), (b, a)))
        assert abs(found[a, b] - p) < 5 * np.sqrt(p * (1 - p) / len(examples))
