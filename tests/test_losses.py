import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from echojax.losses import softmax_chunk, softmax_cross_entropy


def inputs(users, items, seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(size=(users, 5)), dtype),
        jnp.asarray(rng.normal(size=(items, 5)), dtype),
        jnp.asarray(rng.integers(0, items, users)),
    )


def by_definition(user, item, targets):
    logits = np.asarray(user, np.float64) @ np.asarray(item, np.float64).T
    chosen = logits[np.arange(len(logits)), np.asarray(targets)]
    return np.log(np.exp(logits).sum(axis=1)) - chosen


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 17), st.integers(1, 20), st.integers(0, 99))
def test_chunked_equals_the_definition(users, items, chunk, seed):
    user, item, targets = inputs(users, items, seed)
    expected = by_definition(user, item, targets)
    for chunks in (None, chunk):
        loss = softmax_cross_entropy(user, item, targets, chunk=chunks)
        np.testing.assert_allclose(loss, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("chunk", [None, 4])
def test_gradient_equals_finite_differences(chunk):
    user, item, targets = inputs(3, 9, 0, np.float64)

    def mean(user, item):
        return softmax_cross_entropy(user, item, targets, chunk=chunk).mean()

    check_grads(mean, (user, item), order=1, modes=["rev"], eps=1e-6, rtol=1e-7)


def test_chunked_never_holds_all_logits():
    user, item, targets = inputs(512, 50_000, 0)

    def memory(chunk):
        def mean(user, item):
            return softmax_cross_entropy(user, item, targets, chunk=chunk).mean()

        compiled = jax.jit(jax.grad(mean, argnums=(0, 1))).lower(user, item).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(None) >= 4 * 512 * 50_000
    assert memory(1000) < 4 * 512 * 50_000 / 5


def test_chunk_is_chosen_only_for_large_catalogues():
    assert softmax_chunk(2048, 3417) is None
    assert 4 * 2048 * softmax_chunk(2048, 10_000_000) <= 2**28
