"""Draws of negatives: their distributions, and what they depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from echojax.losses.negatives import NEGATIVES, alias_tables, pool

COUNTS = np.array([0, 400, 1, 0, 30, 30, 7, 120, 2, 60])
SHAPE = (3, 400)
POOL = np.array([0, 7, 7, 0, 4, 1, 7, 0, 2, 1])


def keys(rows, seed=0):
    return jax.random.split(jax.random.key(seed), rows)


@functools.cache
def sampler(name):
    """Return the jitted sampler, made once so that tests share what is compiled."""
    draw = jax.jit(NEGATIVES[name](COUNTS), static_argnums=1)
    return lambda keys_B, pool_M=POOL: draw(keys_B, SHAPE, pool_M)


def expected_shares(name):
    if name == "uniform":
        return np.append(0, np.full(COUNTS.size - 1, 1 / (COUNTS.size - 1)))
    counts = COUNTS if name == "popularity" else np.bincount(POOL[POOL > 0], minlength=COUNTS.size)
    return counts / counts.sum()


@pytest.mark.parametrize("name", NEGATIVES)
def test_shares_pass_a_chi_square_test(name):
    items, _ = sampler(name)(keys(50))
    assert items.shape == (50, *SHAPE)
    drawn = np.bincount(np.ravel(items), minlength=COUNTS.size)
    expected = expected_shares(name) * items.size
    np.testing.assert_array_equal(drawn[expected == 0], 0)
    possible = expected > 0
    chi_square = np.sum((drawn - expected)[possible] ** 2 / expected[possible])
    # Mean and variance of chi square with f degrees of freedom are f and 2 f.
    freedom = possible.sum() - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("name", NEGATIVES)
def test_log_probabilities_are_those_of_the_catalogue(name):
    items, log_q = sampler(name)(keys(50))
    shares = expected_shares("uniform" if name == "uniform" else "popularity")
    log_q = np.broadcast_to(log_q, items.shape)
    np.testing.assert_allclose(np.exp(log_q), shares[np.asarray(items)], rtol=1e-6)


@pytest.mark.parametrize("name", NEGATIVES)
def test_a_row_draws_from_its_own_key_alone(name):
    items, _ = sampler(name)(keys(50))
    mixed, _ = sampler(name)(keys(50)[::-1])
    np.testing.assert_array_equal(mixed, items[::-1])
    assert len(np.unique(np.asarray(items).reshape(50, -1), axis=0)) == 50


@pytest.mark.parametrize("name", NEGATIVES)
def test_only_in_batch_looks_at_the_batch(name):
    items, _ = sampler(name)(keys(50))
    other, _ = sampler(name)(keys(50), np.where(POOL == 7, 8, POOL))
    expected = np.where(items == 7, 8, items) if name == "in-batch" else items
    np.testing.assert_array_equal(other, expected)


def test_an_empty_batch_draws_padding_alone():
    items, log_q = sampler("in-batch")(keys(50), np.zeros_like(POOL))
    assert np.all(np.asarray(items) == 0)
    assert np.all(np.isfinite(log_q))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30).filter(any))
@example([10**9, *[1] * 1000, 0])
@example([*[1] * 1000, 10**9])
@example([5, 5, 5])
def test_alias_tables_hold_exactly_the_shares(counts):
    keep, alias = alias_tables(np.array([0, *counts]))
    assert np.all((keep >= 0) & (keep <= 1))
    shares = keep.astype(np.float64)
    np.add.at(shares, alias, np.where(alias > 0, 1 - shares, 0))
    expected = np.array([0, *counts]) / np.sum(counts)
    # The one rounding is that of the table to float32.
    np.testing.assert_allclose(
        shares / len(counts), expected, rtol=0, atol=1e-7 / len(counts) ** 0.5
    )
    assert np.all(shares[expected == 0] == 0)


def test_the_pool_is_what_the_batch_asks_for():
    weights = np.array([1, 0, 1], np.float32)
    np.testing.assert_array_equal(pool(jnp.array([3, 4, 5]), weights), [3, 0, 5])
    targets = jnp.array([[3, 6, 0], [4, 2, 2], [5, 0, 0]])
    np.testing.assert_array_equal(pool(targets, weights), [3, 6, 0, 0, 0, 0, 5, 0, 0])
