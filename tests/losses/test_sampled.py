"""The sampled losses against their formulas, and what they estimate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from echojax.losses.negatives import NEGATIVES
from echojax.losses.sampled import bpr, gbce, sampled_loss, sampled_softmax

ITEMS = 7
T = 0.75
SHAPES = st.sampled_from([(1, 1), (3, 1), (2, 4)])  # (B, P)
Q = np.random.default_rng(0).dirichlet(np.ones(ITEMS))
FORMULAS = {
    (name, num): formula
    for num in (1, 3)
    for name, formula in {
        "sampled-softmax": sampled_softmax,
        "gbce": gbce(T, num, ITEMS),
        "bce": gbce(0.0, num, ITEMS),
        "bpr": bpr,
    }.items()
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def one_by_definition(name, target, negatives, q, num):
    """Return a prediction's loss from its logit, those of the negatives that count and their q."""
    if name == "sampled-softmax":
        others = sum(np.exp(s) / (num * p) for s, p in zip(negatives, q, strict=True))
        return -np.log(np.exp(target) / (np.exp(target) + others))
    if name == "bpr":
        return -sum(np.log(sigmoid(target - s)) for s in negatives) / num
    alpha = num / (ITEMS - 2)
    t = T if name == "gbce" else 0.0
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    likelihood = np.log(sigmoid(target) ** beta)
    return -(likelihood + sum(np.log(1 - sigmoid(s)) for s in negatives)) / (num + 1)


def by_definition(name, user, item, targets, weights, keys, drawn):
    """Return the weighted sum; ``drawn`` is (B, P or 1, K)."""
    total = 0.0
    drawn = np.broadcast_to(drawn, (*targets.shape, drawn.shape[2]))
    for b, p in np.ndindex(*targets.shape):
        scores = np.asarray(item, np.float64) @ np.asarray(user[b, p], np.float64)
        target = int(targets[b, p])
        chosen = [j for j in drawn[b, p] if j not in (0, target)]
        loss = one_by_definition(name, scores[target], scores[chosen], Q[chosen], drawn.shape[2])
        total += float(weights[b, p]) * loss
    return total


def problem(shape, num, seed, dtype=np.float64, items=ITEMS, share=0.7):
    """Return a loss's arguments, with the draws (B, Q, K) in the place of the pool."""
    rng = np.random.default_rng(seed)
    rows, each = shape
    return (
        rng.normal(size=(*shape, 4)).astype(dtype),
        rng.normal(size=(items, 4)).astype(dtype),
        rng.integers(1, items, shape),
        (rng.uniform(0.5, 2, shape) * (rng.random(shape) < share)).astype(dtype),
        jax.random.split(jax.random.key(seed), rows),
        rng.integers(0, items, (rows, each if num == 1 else 1, num)),
    )


def given_draws(keys_B, shape, pool_M):
    """Stand in for a sampler: the draws come with the problem."""
    assert pool_M.shape == (len(keys_B), *shape)
    return pool_M, jnp.asarray(np.log(Q))[pool_M]


@functools.cache
def jitted(name, num):
    """Return the loss of given draws, compiled once for each shape."""
    return jax.jit(sampled_loss(FORMULAS[name, num], given_draws, num))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "num"), FORMULAS)
@settings(max_examples=20, deadline=None)
@given(SHAPES, st.sampled_from([0.0, 0.7, 1.0]), st.integers(0, 99))
def test_values_equal_the_definition(name, num, shape, share, seed):
    arguments = problem(shape, num, seed, share=share)
    value = jitted(name, num)(*arguments)
    assert value.dtype == np.float64
    np.testing.assert_allclose(value, by_definition(name, *arguments), rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "num"), FORMULAS)
def test_gradient_equals_finite_differences(name, num):
    user, item, *others = problem((2, 4), num, 4)
    check_grads(
        lambda user, item: jitted(name, num)(user, item, *others),
        (user, item),
        order=1,
        modes=["rev"],
        eps=1e-6,
        rtol=1e-7,
    )


@pytest.mark.parametrize(("name", "num"), FORMULAS)
def test_where_only_the_target_can_be_drawn_nothing_breaks(name, num):
    arguments = problem((2, 4), num, 0, np.float32, items=2)
    loss = sampled_loss(FORMULAS[name, num], NEGATIVES["uniform"](np.array([0, 5])), num)
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(*arguments)
    assert value.dtype == jnp.float32
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in (value, *gradients))
    if name in ("sampled-softmax", "bpr"):  # nothing to be better than
        np.testing.assert_allclose(value, 0, atol=1e-6)


def test_gbce_with_every_other_item_drawn_is_bce():
    target, negative = jnp.array([[0.3]]), jnp.array([[[0.1, -2.0]]])
    whole = gbce(1.0, 2, 4)(target, negative, jnp.float32(0))
    np.testing.assert_array_equal(whole, gbce(0.0, 2, 4)(target, negative, jnp.float32(0)))
    # More draws than items: the rate is 1, not above.
    np.testing.assert_array_equal(whole, gbce(1.0, 2, 3)(target, negative, jnp.float32(0)))


@pytest.mark.parametrize(("name", "num"), FORMULAS)
def test_extreme_logits_stay_finite(name, num):
    def loss(target, negative):
        return FORMULAS[name, num](target, negative, jnp.float32(-1.0)).sum()

    target = jnp.array([[-1e4, 1e4]])
    negative = jnp.broadcast_to(jnp.array([-1e4, 0.0, 1e4, -jnp.inf]), (1, 2, 4))
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(target, negative)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in (value, *gradients))


def test_bfloat16_activations_are_compared_in_float32():
    user, *others = problem((2, 4), 3, 0, np.float32)
    user = user.astype(jnp.bfloat16)
    value = jitted("sampled-softmax", 3)(user, *others)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, by_definition("sampled-softmax", user, *others), rtol=1e-6)


def test_draws_are_from_other_keys_than_dropouts():
    """A row's dropout masks are drawn from what its key is split into."""

    @jax.jit
    def keys(*arguments):
        used = [arguments[4], *jax.vmap(lambda key: jax.random.split(key, 4))(arguments[4]).T]

        def draw(keys_B, *others):
            used.append(keys_B)
            return given_draws(keys_B, *others)

        sampled_loss(bpr, draw, 3)(*arguments)
        return jax.random.key_data(jnp.concatenate(used))

    found = keys(*problem((2, 4), 3, 0, np.float32))
    assert len(np.unique(found, axis=0)) == len(found) == 2 * (1 + 4 + 1)


COUNTS = np.array([0, 50, 1, 5, 20, 3, 1, 10, 8])


def random_batches(rows, size):
    """Return a row's pool each: targets as they come in a shuffled batch."""
    items = np.repeat(np.arange(COUNTS.size), COUNTS)
    return jnp.asarray(np.random.default_rng(0).choice(items, (rows, size)))


@pytest.mark.parametrize("name", NEGATIVES)
def test_the_estimated_denominator_is_unbiased(name):
    rng = np.random.default_rng(1)
    logits_V = rng.normal(size=COUNTS.size)
    target, rows = 4, 4000
    draw = NEGATIVES[name](COUNTS)

    def denominator(key, pool_M):
        items, log_q = draw(key[None], (2,), pool_M)
        negative = jnp.where(items == target, -jnp.inf, jnp.asarray(logits_V)[items])
        here = jnp.asarray(logits_V[target])[None]
        return jnp.exp(sampled_softmax(here, negative, log_q) + here)[0]

    keys = jax.random.split(jax.random.key(2), rows)
    estimates = np.asarray(jax.jit(jax.vmap(denominator))(keys, random_batches(rows, 12)))
    error = estimates.mean() - np.exp(logits_V[1:]).sum()
    assert abs(error) < 4 * estimates.std() / np.sqrt(rows)
