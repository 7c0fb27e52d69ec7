import itertools

import numpy as np
import pytest

from echojax.evaluation.statistics import (
    bootstrap_intervals,
    holm,
    paired_difference,
    resampled_means,
)


def users_with_examples(counts):
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize("counts", [[1, 1, 1], [1, 4, 2]])
def test_resamples_have_the_exact_distribution(counts):
    """All 27 draws of 3 users from 3, each with all its examples, are equally likely."""
    user = users_with_examples(counts)
    value = np.random.default_rng(0).random(user.size).round(2)
    expected = {}
    for drawn in itertools.product(range(3), repeat=3):
        mean = np.concatenate([value[user == u] for u in drawn]).mean().round(9)
        expected[mean] = expected.get(mean, 0) + 1 / 27
    resamples = 40_000
    means = resampled_means(value[:, None], user, resamples=resamples, seed=1)[:, 0].round(9)
    found, times = np.unique(means, return_counts=True)
    assert set(found) == set(expected)
    for mean, n in zip(found, times, strict=True):
        p = expected[mean]
        assert abs(n / resamples - p) < 5 * np.sqrt(p * (1 - p) / resamples)


def test_intervals_agree_with_drawing_users_one_by_one():
    rng = np.random.default_rng(2)
    user = users_with_examples(rng.integers(1, 6, 200))
    values = rng.random((user.size, 2)) < 0.2
    by_user = [np.flatnonzero(user == u) for u in range(200)]
    means = np.array(
        [
            values[np.concatenate([by_user[u] for u in rng.integers(0, 200, 200)])].mean(axis=0)
            for _ in range(4000)
        ]
    )
    slow = np.quantile(means, [0.025, 0.975], axis=0).T
    fast = bootstrap_intervals(values, user, resamples=4000)
    width = (slow[:, 1] - slow[:, 0])[:, None]
    assert np.all(np.abs(fast - slow) < 0.08 * width)


def test_user_numbers_and_order_do_not_matter():
    rng = np.random.default_rng(4)
    user, values = users_with_examples([1, 3, 2, 5]), rng.integers(0, 2, (11, 3))
    order, numbers = rng.permutation(11), np.array([70, 2, 31, 8], np.int32)
    np.testing.assert_array_equal(
        bootstrap_intervals(values, user, seed=5),
        bootstrap_intervals(values[order], numbers[user][order], seed=5),
    )


def test_the_last_bits_of_values_change_nothing():
    """They differ from one processor to another."""
    rng = np.random.default_rng(0)
    values = 1 / np.log2(1 + rng.integers(1, 30, (200, 2)))
    others = np.nextafter(values, rng.integers(0, 2, values.shape))
    assert np.any(others != values)
    user = np.arange(200)
    np.testing.assert_allclose(
        bootstrap_intervals(values, user), bootstrap_intervals(others, user), rtol=1e-11
    )
    assert paired_difference(*values.T, user) == pytest.approx(
        paired_difference(*others.T, user), rel=1e-9
    )


def test_equal_values_have_no_spread():
    values = np.full((7, 1), 0.25)
    np.testing.assert_allclose(bootstrap_intervals(values, np.arange(7)), [[0.25, 0.25]])
    np.testing.assert_allclose(bootstrap_intervals(values[:1], np.zeros(1, int)), [[0.25, 0.25]])


def test_chunks_change_nothing_but_memory(monkeypatch):
    values, user = np.random.default_rng(7).random((50, 2)), np.arange(50)
    whole = resampled_means(values, user, resamples=100, seed=0)
    monkeypatch.setattr("echojax.evaluation.statistics._CHUNK", 120)
    np.testing.assert_allclose(resampled_means(values, user, resamples=100, seed=0), whole)


def test_models_that_agree_do_not_differ():
    same = np.random.default_rng(8).random(30)
    result = paired_difference(same, same, np.arange(30))
    assert result == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}


def test_gains_that_cancel_but_for_rounding_are_no_difference():
    gain = np.array([0.43067655807339306, 0.26264953503719357, 0.24465054211822604])
    gain = np.concatenate([gain[:2], -gain[[0, 2, 1]], gain[2:]])
    assert gain.sum() != 0
    assert paired_difference(gain, np.zeros(6), np.arange(6))["p"] == 1


@pytest.mark.parametrize("counts", [[1] * 8, [1, 2, 1, 3, 1, 1, 2, 1]])
def test_the_permutation_test_agrees_with_all_swaps(counts):
    rng = np.random.default_rng(9)
    user = users_with_examples(counts)
    ours, theirs = rng.integers(0, 5, (2, user.size)) / 4
    gain = np.bincount(user, weights=ours - theirs)
    swaps = np.array(list(itertools.product([-1, 1], repeat=8)))
    exact = np.mean(np.abs(swaps @ gain) >= abs(gain.sum()) - 1e-9)
    result = paired_difference(ours, theirs, user, resamples=20_000)
    assert 0.02 < exact < 0.98
    assert result["p"] == pytest.approx(exact, abs=0.02)
    assert result["difference"] == pytest.approx((ours - theirs).mean())


def test_a_user_is_swapped_with_all_examples():
    """All four gain alike: of their 16 swaps 2 are as far from 0, of 4,096 by example 2 too."""
    gain = np.ones(12)
    result = paired_difference(gain, 0 * gain, users_with_examples([3] * 4))
    assert result["p"] == pytest.approx(2 / 16, abs=0.02)


def test_a_clear_difference_is_significant_in_both_directions():
    rng = np.random.default_rng(10)
    theirs = rng.random(200)
    ours = theirs + 0.1 + 0.05 * rng.normal(size=200)
    up, down = (
        paired_difference(*pair, np.arange(200), resamples=999)
        for pair in ((ours, theirs), (theirs, ours))
    )
    assert up["p"] == down["p"] == 1 / 1000
    assert 0 < up["low"] < up["difference"] < up["high"]
    assert down["difference"] == pytest.approx(-up["difference"])


def test_holm_by_hand():
    """Four tests: .01 x 4, .02 x 3, .03 x 2 (not below .06 before it), .04 x 1 (likewise)."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.005, 0.2, 0.011]) == pytest.approx([0.015, 0.2, 0.022])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.3]) == pytest.approx([0.3])
    assert holm([]) == []


def test_holm_rejects_what_its_step_down_rule_rejects():
    rng = np.random.default_rng(12)
    for _ in range(200):
        p = rng.random(rng.integers(1, 9)) ** 3
        rejected = np.zeros(p.size, bool)
        for step, place in enumerate(np.argsort(p)):
            if p[place] > 0.05 / (p.size - step):
                break
            rejected[place] = True
        np.testing.assert_array_equal(np.array(holm(p)) <= 0.05, rejected)
