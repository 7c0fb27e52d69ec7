"""Attention in blocks of queries against the whole, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from echojax.models import attention
from echojax.models.hstu import HSTU
from echojax.models.sasrec import SASRec
from tests.models.promises import build

LENGTHS = np.array([1, 300, 130], np.int32)
# Item numbers and lengths.
HISTORIES = (
    np.random.default_rng(1).integers(1, 10, (2, 140)).astype(np.int32),
    np.array([140, 90], np.int32),
)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("causal", [True, False])
def test_values_and_gradients_are_those_of_the_equation(causal):
    rng = np.random.default_rng(0)
    q, k, v, weight = (jnp.asarray(rng.normal(size=(3, 300, 2, 4))) for _ in range(4))

    def whole(q, k, v):
        score = jnp.einsum("bqhk,bshk->bhqs", q, k) / 2
        see = jnp.arange(300) < LENGTHS[:, None, None, None]
        if causal:
            see &= jnp.tri(300, dtype=bool)
        return jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(jnp.where(see, score, -jnp.inf)), v)

    layer = attention.SelfAttention(8, heads=2, causal=causal, dropout=0, rngs=nnx.Rngs(0))

    def blocked(q, k, v):
        q, k, v = (x.swapaxes(1, 2) for x in (q / 2, k, v))
        rows = (LENGTHS, None)
        y = attention.attend_in_blocks(q, k, v, rows, layer.weights, causal=causal)
        return y.swapaxes(1, 2)

    def with_gradients(attend):
        out, pull = jax.vjp(jax.jit(attend), q, k, v)
        return out, pull(weight)

    found, expected = with_gradients(blocked), with_gradients(whole)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", [HSTU, pytest.param(SASRec, marks=pytest.mark.slow)])
def test_models_of_long_histories_are_the_same(kind, monkeypatch):
    graphdef, params = nnx.split(build(kind, max_len=140))

    def value(params):
        return jnp.mean(jnp.sin(nnx.merge(graphdef, params).encode(*HISTORIES)))

    found = jax.jit(jax.value_and_grad(value))(params)
    for module in ("hstu", "attention"):
        monkeypatch.setattr(f"echojax.models.{module}.blocks_are_better", lambda queries: False)
    expected = jax.jit(jax.value_and_grad(lambda params: value(params)))(params)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * largest)
