"""Label smoothing: the cross entropy with the smoothed targets, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from echojax.losses import make_loss

WIDTH = 5


def predictions(rows, each, items, seed):
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 2, (rows, each)) * (rng.random((rows, each)) < 0.6)
    return (
        rng.normal(size=(rows, each, WIDTH)),
        rng.normal(size=(items, WIDTH)),
        rng.integers(1, items, (rows, each)),
        weights,
    )


def with_gradient(share, user, item, targets, weights):
    """Return the loss and its gradients by users and items."""
    loss = make_loss(counts_V=np.arange(len(item)), label_smoothing=share)
    keys, pool = jax.random.split(jax.random.key(0), len(user)), jnp.zeros(1, jnp.int32)

    def of(user, item):
        return loss(user, item, jnp.asarray(targets), jnp.asarray(weights), keys, pool)

    value, gradients = jax.value_and_grad(of, (0, 1))(jnp.asarray(user), jnp.asarray(item))
    return value, *gradients


def by_definition(share, user, item, targets, weights):
    """Return the same, every target a distribution over items; padding is none."""
    smooth = (1 - share) * np.eye(len(item))[targets] + share / (len(item) - 1)
    smooth[..., 0] = 0
    logits = user @ item.T
    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    value = -(weights[..., None] * smooth * np.log(softmax)).sum()
    by_logits = weights[..., None] * (softmax - smooth)
    return value, by_logits @ item, np.einsum("bpv,bpd->vd", by_logits, user)


@pytest.mark.usefixtures("x64")
@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([(1, 1, 2), (3, 4, 9)]), st.sampled_from([0.0, 0.1, 0.9]), st.integers(0, 99)
)
def test_value_and_gradient_equal_the_definition(shape, share, seed):
    given = predictions(*shape, seed)
    ours, expected = with_gradient(share, *given), by_definition(share, *given)
    for actual, exact in zip(ours, expected, strict=True):
        np.testing.assert_allclose(actual, exact, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_gradient_equals_finite_differences():
    user, item, targets, weights = predictions(3, 4, 9, 0)

    def loss(user, item):
        return with_gradient(0.2, user, item, targets, weights)[0]

    check_grads(loss, (user, item), order=1, modes=["rev"], eps=1e-6, rtol=1e-7)


def test_what_is_not_predicted_is_never_looked_at():
    user, item, targets, weights = (np.float32(x) for x in predictions(6, 5, 9, 1))
    targets = targets.astype(int)
    holes = np.where(weights[..., None] == 0, np.nan, user)
    for ours, theirs in zip(
        with_gradient(0.1, holes, item, targets, weights),
        with_gradient(0.1, user, item, targets, weights),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_it_is_float32_where_the_vectors_are_bf16():
    user, item, targets, weights = predictions(2, 4, 9, 0)
    given = jnp.asarray(user, jnp.bfloat16), np.float32(item), targets, np.float32(weights)
    value, by_user, by_item = with_gradient(0.1, *given)
    assert (value.dtype, by_user.dtype, by_item.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    expected = by_definition(0.1, np.asarray(given[0], np.float64), item, targets, weights)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
