"""The optimiser: how long its steps are, what it shrinks, what it shortens."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.config import Config
from echojax.models.mamba4rec import Mamba4Rec
from echojax.models.sasrec import SASRec
from echojax.training.optimizer import make_optimizer, scale_by_row_rms
from tests.models.promises import filled

CONFIG = Config(learning_rate=0.1)


def step_lengths(config, steps, steps_per_epoch=1):
    """Return how far Adam moves a number whose gradient is always 1: the learning rate."""
    optimizer = make_optimizer(config, steps_per_epoch=steps_per_epoch)
    param = jnp.float32(5.0)
    state, lengths = optimizer.init(param), []
    for _ in range(steps):
        update, state = optimizer.update(jnp.float32(1.0), state, param)
        lengths.append(-float(update))
    return lengths


def test_constant_warm_up_and_cosine():
    np.testing.assert_allclose(step_lengths(CONFIG, 3), [0.1] * 3, rtol=3e-5)
    warm = step_lengths(replace(CONFIG, warmup_steps=4), 6)
    np.testing.assert_allclose(warm, [0.025, 0.05, 0.075, 0.1, 0.1, 0.1], rtol=3e-5)
    both = step_lengths(replace(CONFIG, warmup_steps=1, decay_steps=4), 7)
    cosine = 0.05 * (1 + np.cos(np.pi * np.arange(5) / 4))
    np.testing.assert_allclose(both, [0.1, *cosine, 0], rtol=3e-5, atol=1e-9)


def test_shares_of_the_run_are_the_same_numbers_of_steps():
    shares = replace(CONFIG, epochs=3, warmup=0.1)  # 12 steps, of which 1.2 begin
    assert step_lengths(shares, 14, 4) == step_lengths(replace(CONFIG, warmup_steps=2), 14)
    falling = replace(shares, schedule="cosine")
    steps = replace(CONFIG, warmup_steps=2, decay_steps=10)
    assert step_lengths(falling, 14, 4) == step_lengths(steps, 14)
    assert step_lengths(replace(falling, max_steps=7), 9, 4) == step_lengths(
        replace(steps, warmup_steps=1, decay_steps=6), 9
    )
    # Checkpoints are read where nobody knows the steps of an epoch.
    param = jnp.float32(0)
    states = [make_optimizer(shares, steps_per_epoch=n).init(param) for n in (1, 4)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_weight_decay_shrinks_matrices_only():
    params = nnx.state(filled(partial(Mamba4Rec, 9, d_model=8, d_state=2, max_len=4)))
    optimizer = make_optimizer(replace(CONFIG, weight_decay=0.5))
    nothing = jax.tree.map(np.zeros_like, params)
    update = jax.jit(lambda: optimizer.update(nothing, optimizer.init(params), params))
    updates, _ = update()
    shrunk = set()
    for (path, update), param in zip(
        jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(params), strict=True
    ):
        name = jax.tree_util.keystr(path)
        if np.any(update):
            np.testing.assert_allclose(update, -0.1 * 0.5 * param, rtol=1e-6)
            shrunk.add(name)
        assert np.any(update) == (param.ndim >= 2 and "A_log" not in name), name
    assert any("item_embedding" in name for name in shrunk)


def test_a_long_gradient_is_shortened_as_a_whole():
    params = {"a": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)}
    optimizer = make_optimizer(replace(CONFIG, clip_norm=1.0))
    step = jax.jit(lambda gradient: optimizer.update(gradient, optimizer.init(params), params))
    for gradient, size in (
        ({"a": [3.0, 0.0], "b": [4.0]}, 5.0),
        ({"a": [0.3, 0.0], "b": [0.4]}, 1),
    ):
        gradient = {name: np.float32(numbers) for name, numbers in gradient.items()}
        _, state = step(gradient)
        moments = state[1][0].mu
        for name in params:  # Adam's first moment after a step: a tenth of what it was given
            np.testing.assert_allclose(moments[name], 0.1 * gradient[name] / size, rtol=3e-5)


def test_rows_are_divided_by_their_root_mean_square():
    rng = np.random.default_rng(0)
    optimizer = scale_by_row_rms(decay=0.9, eps=1e-8)
    update_rows = jax.jit(optimizer.update)
    state, square = optimizer.init(jnp.zeros((5, 3))), np.zeros(5)
    assert state.square.shape == (5,)
    for step in range(1, 4):
        grad = rng.normal(size=(5, 3)) * (rng.random((5, 1)) < 0.7)
        update, state = update_rows(np.float32(grad), state)
        square = 0.9 * square + 0.1 * (grad**2).mean(axis=1)
        expected = grad / (np.sqrt(square / (1 - 0.9**step)) + 1e-8)[:, None]
        np.testing.assert_allclose(update, expected, rtol=2e-6)


def test_only_the_item_table_has_it():
    config = Config(item_optimizer="rowwise", learning_rate=0.1)
    params = nnx.state(SASRec(9, d_model=8, heads=1, layers=1, max_len=4, rngs=nnx.Rngs(0)))
    rowwise, adam = make_optimizer(config), make_optimizer(replace(config, item_optimizer="adam"))
    shapes = [jax.eval_shape(made.init, params) for made in (rowwise, adam)]
    numbers = [sum(leaf.size for leaf in jax.tree.leaves(one)) for one in shapes]
    assert numbers[1] - numbers[0] == 2 * 9 * 8 - 9 - 1  # its means of squares and its count
    grads = jax.tree.map(lambda x: jnp.full_like(x, -2.0), params)
    for made in (rowwise, adam):  # the first step of both is the sign of the gradient
        update = jax.jit(lambda made=made: made.update(grads, made.init(params), params))
        updates, _ = update()
        for update in jax.tree.leaves(updates):
            np.testing.assert_allclose(update, 0.1, rtol=1e-5)
