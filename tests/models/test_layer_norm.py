"""Layer normalisation: the textbook's values and gradients, and none of a constant vector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from echojax.models.layers import LayerNorm
from echojax.models.sasrec import SASRec


def test_values_and_gradients_are_those_of_flax():
    x, weight = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype(np.float32)
    x[1, 2] = 0

    @jax.jit
    def found(x):
        norms = (
            LayerNorm(6, rngs=nnx.Rngs(0)),
            nnx.LayerNorm(6, epsilon=1e-12, use_fast_variance=False, rngs=nnx.Rngs(0)),
        )
        grads = [jax.grad(lambda x, n=norm: (n(x) * weight).sum())(x) for norm in norms]
        return [norm(x) for norm in norms], grads

    values, (ours, flax) = jax.tree.map(np.array, found(x))
    np.testing.assert_array_equal(*values)
    assert not ours[1, 2].any()
    assert np.abs(flax[1, 2]).max() > 1e4  # what would be passed on
    flax[1, 2] = 0
    np.testing.assert_array_equal(ours, flax)


@pytest.mark.slow  # that a constant vector passes no gradient is above
def test_a_vector_that_dropout_zeroes_leaves_gradients_small():
    model = SASRec(50, d_model=8, max_len=5, dropout=0.5, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    item_ids = jax.random.randint(jax.random.key(0), (512, 5), 1, 50)
    keys = jax.random.split(jax.random.key(1), 512)

    def loss(params):
        out = nnx.merge(graphdef, params).encode_all(item_ids, jnp.full(512, 5), dropout_keys=keys)
        return (out * jax.random.normal(jax.random.key(2), out.shape)).mean()

    sizes = jax.tree.map(lambda x: float(jnp.abs(x).max()), jax.jit(jax.grad(loss))(params))
    assert max(jax.tree.leaves(sizes)) < 10
