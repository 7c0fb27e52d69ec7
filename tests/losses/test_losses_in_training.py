"""Every loss in the training step: it falls, whatever the microbatch and beside other seeds."""

from functools import partial
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from echojax.losses import full_softmax, make_loss
from echojax.losses import softmax as softmax_module
from echojax.models.base import CausalModel
from echojax.training.step import create_state, make_train_step, stack_states, unstack_states
from tests.training.conftest import assert_same_moments

ITEMS, ROWS, LENGTH = 12, 8, 5
COUNTS = np.append(0, np.arange(ITEMS - 1) + 1)
LOSSES = {
    "softmax": {"label_smoothing": 0.1},
    "sampled-softmax": {"negatives": 4, "negative_sampling": "in-batch"},
    "gbce": {"negatives": 4, "negative_sampling": "popularity"},
    "bce": {},
    "bpr": {},
}


class LastItem(CausalModel):
    """The smallest causal model: a linear function of the item read last."""

    def __init__(self, *, rngs):
        super().__init__(ITEMS, d_model=8, max_len=LENGTH, rngs=rngs)
        self.linear = nnx.Linear(8, 8, rngs=rngs)

    def read_all(self, x_BxLxD, lengths_B, *, dropout_keys=None):
        return self.linear(x_BxLxD)


def setup(name, seed=0, microbatch=None):
    graphdef, state = create_state(LastItem(rngs=nnx.Rngs(seed)), optax.adam(3e-2), seed)
    loss = make_loss(name, counts_V=COUNTS, **LOSSES[name])
    return make_train_step(
        graphdef, optax.adam(3e-2), objective="all-positions", microbatch=microbatch, loss=loss
    ), state


def batch(seed=0):
    """Return histories in which every item is followed by the next number."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, LENGTH + 1, ROWS).astype(np.int32)
    items = (rng.integers(ITEMS - 1, size=(ROWS, 1)) + np.arange(LENGTH + 1)) % (ITEMS - 1) + 1
    inside = np.arange(LENGTH) < lengths[:, None]
    return {
        "item_ids": (items[:, :-1] * inside).astype(np.int32),
        "lengths": lengths,
        "targets": (items[:, 1:] * inside).astype(np.int32),
        "weights": (np.arange(ROWS) < ROWS - 1).astype(np.float32),
    }


@pytest.mark.parametrize("name", LOSSES)
def test_training_lowers_it(name):
    step, state = setup(name)
    losses = []
    for number in range(80):
        state, loss = step(state, batch(number % 4))
        losses.append(float(loss))
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:4])


def test_microbatches_draw_the_same():
    whole, state = setup("sampled-softmax")
    parts, same = setup("sampled-softmax", microbatch=2)
    one, loss = whole(state, batch())
    other, other_loss = parts(same, batch())
    np.testing.assert_allclose(loss, other_loss, rtol=1e-6)
    assert_same_moments(one, other)


@pytest.mark.parametrize(
    "name", [pytest.param("softmax", marks=pytest.mark.slow), "sampled-softmax"]
)
def test_seeds_side_by_side_train_as_each_alone(name):
    with patch.object(softmax_module, "_rows_at_once", return_value=6):
        (step, first), (_, second) = setup(name, 0), setup(name, 1)
        states = stack_states([first, second])
        batches = {key: np.stack([batch(0)[key], batch(1)[key]]) for key in batch()}
        together, losses = jax.jit(jax.vmap(step))(states, batches)
        for seed, state in enumerate((first, second)):
            alone, loss = step(state, batch(seed))
            np.testing.assert_allclose(losses[seed], loss, rtol=1e-5)
            assert_same_moments(unstack_states(together)[seed], alone)


def test_defaults_are_those_of_the_flags():
    explicit = {
        "softmax": {"label_smoothing": 0.0},
        "sampled-softmax": {"negatives": 256, "negative_sampling": "uniform"},
        "gbce": {"negatives": 256, "negative_sampling": "uniform", "gbce_t": 0.75},
        "bce": {"negatives": 1, "negative_sampling": "uniform"},
        "bpr": {"negatives": 1, "negative_sampling": "uniform"},
    }
    rng = np.random.default_rng(0)
    user, item = rng.normal(size=(2, 3, 4)), rng.normal(size=(ITEMS, 4))
    targets, weights = rng.integers(1, ITEMS, (2, 3)), np.ones((2, 3), np.float32)
    given = (*map(jnp.asarray, (user, item, targets, weights)), jax.random.split(jax.random.key(0)))

    def value(*name, **options):
        loss = jax.jit(make_loss(*name, counts_V=COUNTS, **options))
        return float(loss(*given, jnp.zeros(1, jnp.int32)))

    for name, options in explicit.items():
        assert value(name) == value(name, **options)
    smoothed = jax.jit(partial(full_softmax, label_smoothing=0.2))(*given[:4])
    assert value(label_smoothing=0.2) == float(smoothed)
