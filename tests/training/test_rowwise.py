"""The item table's optimiser state of one number a row."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.config import Config
from echojax.models.sasrec import SASRec
from echojax.training.optimizer import make_optimizer
from echojax.training.rowwise import scale_by_row_rms


def test_rows_are_divided_by_their_root_mean_square():
    rng = np.random.default_rng(0)
    optimizer = scale_by_row_rms(decay=0.9, eps=1e-8)
    state, square = optimizer.init(jnp.zeros((5, 3))), np.zeros(5)
    assert state.square.shape == (5,)
    for step in range(1, 4):
        grad = rng.normal(size=(5, 3)) * (rng.random((5, 1)) < 0.7)
        update, state = optimizer.update(jnp.asarray(grad, jnp.float32), state)
        square = 0.9 * square + 0.1 * (grad**2).mean(axis=1)
        expected = grad / (np.sqrt(square / (1 - 0.9**step)) + 1e-8)[:, None]
        np.testing.assert_allclose(update, expected, rtol=2e-6)


def test_the_item_table_alone_has_it():
    config = Config(item_optimizer="rowwise", learning_rate=0.1)
    params = nnx.state(SASRec(9, d_model=8, heads=1, layers=1, max_len=4, rngs=nnx.Rngs(0)))
    rowwise, adam = make_optimizer(config), make_optimizer(replace(config, item_optimizer="adam"))
    numbers = [
        sum(leaf.size for leaf in jax.tree.leaves(made.init(params))) for made in (rowwise, adam)
    ]
    assert numbers[1] - numbers[0] == 2 * 9 * 8 - 9 - 1  # its means of squares and its count
    grads = jax.tree.map(lambda x: jnp.full_like(x, -2.0), params)
    for made in (rowwise, adam):  # the first step of both is the sign of the gradient
        updates, _ = made.update(grads, made.init(params), params)
        for update in jax.tree.leaves(updates):
            np.testing.assert_allclose(update, 0.1, rtol=1e-5)
