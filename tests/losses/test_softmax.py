"""The full softmax: the same numbers whatever is held at once."""

import functools
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from echojax.losses import full_softmax, softmax_cross_entropy
from echojax.losses import softmax as module


def inputs(users, items, seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(users, 5)).astype(dtype),
        rng.normal(size=(items, 5)).astype(dtype),
        rng.integers(0, items, users),
    )


def by_definition(user, item, targets):
    logits = np.asarray(user, np.float64) @ np.asarray(item, np.float64).T
    chosen = logits[np.arange(len(logits)), np.asarray(targets)]
    return np.log(np.exp(logits).sum(axis=1)) - chosen


def summed_by_definition(user_BxPxD, item_VxD, targets_BxP, weights_BxP, smoothing=0.0):
    """Return the weighted sum and its gradients by users and items.

    A target is a distribution over items, smoothed or not; padding is none.
    """
    user, item = np.asarray(user_BxPxD, np.float64), np.asarray(item_VxD, np.float64)
    weights = np.asarray(weights_BxP, np.float64)
    logits = user @ item.T
    share = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    hot = (1 - smoothing) * np.eye(len(item))[np.asarray(targets_BxP)]
    hot[..., 1:] += smoothing / (len(item) - 1)
    value = -(weights[..., None] * hot * np.log(share)).sum()
    by_logits = weights[..., None] * (share - hot)
    return value, by_logits @ item, np.einsum("bpv,bpd->vd", by_logits, user)


def predictions(rows, each, items, seed, dtype=np.float32, share=0.5):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(rows, each, 5)).astype(dtype),
        rng.normal(size=(items, 5)).astype(dtype),
        rng.integers(1, items, (rows, each)),
        (rng.uniform(0.5, 2, (rows, each)) * (rng.random((rows, each)) < share)).astype(dtype),
    )


def rows_at_once(rows):
    return patch.object(module, "_rows_at_once", return_value=rows)


def with_gradient(user_BxPxD, item_VxD, targets_BxP, weights_BxP, smoothing=0.0):
    def loss(user_BxPxD, item_VxD):
        return full_softmax(
            user_BxPxD, item_VxD, targets_BxP, weights_BxP, label_smoothing=smoothing
        )

    value, gradients = jax.value_and_grad(loss, (0, 1))(user_BxPxD, item_VxD)
    return value, *gradients


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(1, 2), (4, 17)]), st.sampled_from([1, 5, 17, 20, None]), st.integers(0, 99)
)
def test_chunks_of_items_equal_the_definition(sizes, chunk, seed):
    user, item, targets = inputs(*sizes, seed)
    loss = jax.jit(softmax_cross_entropy, static_argnames="chunk")(user, item, targets, chunk=chunk)
    np.testing.assert_allclose(loss, by_definition(user, item, targets), rtol=2e-6, atol=2e-6)


@functools.cache
def jitted(at_once, smoothing=0.0):
    """Return value and gradient for this many rows at once, compiled once for each shape."""
    return jax.jit(lambda *given: with_gradient(*given, smoothing))


@settings(max_examples=30, deadline=None)
@given(
    # Each is compiled: one prediction of two items, and several by one, by some and at once.
    st.sampled_from([((1, 1, 2), 4), *[((3, 5, 9), at_once) for at_once in (1, 4, 99)]]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.1]),
    st.integers(0, 99),
)
def test_sum_and_gradient_equal_the_definition(sizes, share, smoothing, seed):
    shape, at_once = sizes
    given = predictions(*shape, seed, share=share)
    with rows_at_once(at_once):
        ours = jitted(at_once, smoothing)(*given)
    for actual, expected in zip(ours, summed_by_definition(*given, smoothing), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=3e-6, atol=3e-6)


@pytest.mark.usefixtures("x64")
def test_gradient_by_chunks_of_items_equals_finite_differences():
    user, item, targets = inputs(3, 9, 0, np.float64)

    @jax.jit
    def mean(user, item):
        return softmax_cross_entropy(user, item, targets, chunk=4).mean()

    check_grads(mean, (user, item), order=1, modes=["rev"], eps=1e-6, rtol=1e-7)


@pytest.mark.usefixtures("x64")
def test_gradient_by_rows_equals_finite_differences():
    user, item, targets, weights = predictions(2, 4, 9, 0, np.float64)

    @jax.jit
    def loss(user, item):
        return 3 * full_softmax(user, item, targets, weights)

    with rows_at_once(3):
        check_grads(loss, (user, item), order=1, modes=["rev"], eps=1e-6, rtol=1e-7)


def test_a_catalogue_past_the_limit_is_cut_into_chunks_of_items():
    given = predictions(30, 4, 5000, 0)
    with patch.object(module, "MOST_LOGITS", 2**18):
        compiled = jax.jit(lambda *given: with_gradient(*given)).lower(*given).compile()
        assert "while" in compiled.as_text()
        for ours, theirs in zip(compiled(*given), summed_by_definition(*given), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("at_once", "smoothing"), [pytest.param(4, 0.0, marks=pytest.mark.slow), (99, 0.0), (4, 0.1)]
)
def test_padding_is_never_looked_at(at_once, smoothing):
    user, item, targets, weights = predictions(6, 5, 9, 1)
    holes = jnp.where(weights[..., None] == 0, jnp.nan, user)
    with rows_at_once(at_once):
        found = (jitted(at_once, smoothing)(x, item, targets, weights) for x in (holes, user))
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_vmap_equals_one_after_the_other():
    # Different shares of padding: the loop must go on for the longest.
    several = [predictions(4, 6, 9, seed, share=seed / 3) for seed in range(4)]
    with rows_at_once(5):
        together = jax.jit(jax.vmap(with_gradient))(*map(jnp.stack, zip(*several, strict=True)))
        alone = [jitted(5)(*given) for given in several]
    for ours, theirs in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(ours, jnp.stack(theirs), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("at_once", "smoothing"),
    [(3, 0.9), *[pytest.param(n, 0.0, marks=pytest.mark.slow) for n in (3, 99)]],
)
def test_dtypes(at_once, smoothing):
    user, item, targets, weights = predictions(2, 4, 9, 0)
    user = user.astype(jnp.bfloat16)
    with rows_at_once(at_once):
        value, by_user, by_item = jitted(at_once, smoothing)(user, item, targets, weights)
    assert (value.dtype, by_user.dtype, by_item.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    expected = summed_by_definition(user.astype(jnp.float32), item, targets, weights, smoothing)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    with jax.enable_x64(True), rows_at_once(at_once):
        given = predictions(2, 4, 9, 0, np.float64)
        ours = jitted(at_once, smoothing)(*given)
    expected = summed_by_definition(*given, smoothing)
    for actual, exact in zip(ours, expected, strict=True):
        assert actual.dtype == np.float64
        np.testing.assert_allclose(actual, exact, rtol=1e-12, atol=1e-14)


def temporary_bytes(function, *arguments):
    # A new function each time: jit remembers what it traced before something was patched.
    compiled = jax.jit(lambda *given: function(*given)).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_chunks_of_items_never_hold_all_logits():
    user, item, targets = inputs(512, 50_000, 0)

    def memory(chunk):
        def mean(user, item):
            return softmax_cross_entropy(user, item, targets, chunk=chunk).mean()

        return temporary_bytes(jax.grad(mean, (0, 1)), user, item)

    assert memory(None) >= 4 * 512 * 50_000
    assert memory(1000) < 4 * 512 * 50_000 / 5


def test_rows_never_hold_all_logits():
    given = predictions(64, 50, 5_000, 0)
    all_logits = 4 * 64 * 50 * 5_000
    with rows_at_once(64 * 50):
        assert temporary_bytes(with_gradient, *given) >= all_logits
    with patch.object(jax, "default_backend", return_value="cpu"):
        assert temporary_bytes(with_gradient, *given) < all_logits / 20
    with patch.object(module, "MOST_LOGITS", 2**18):
        assert temporary_bytes(with_gradient, *given) < all_logits / 2
