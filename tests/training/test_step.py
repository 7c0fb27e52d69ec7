"""The training step: what it computes whatever the microbatch, and what it ignores."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from echojax.models.bert4rec import BERT4Rec
from echojax.models.caser import Caser
from echojax.models.echomamba4rec import EchoMamba4Rec
from echojax.models.gru4rec import GRU4Rec
from echojax.training.step import TrainState, create_state, make_train_step, row_keys
from tests.training.conftest import assert_same_moments

SMALL_ECHOMAMBA = partial(EchoMamba4Rec, d_state=3, scan="sequential")
SMALL_GRU = partial(GRU4Rec, hidden_size=8)  # the quickest to compile


def setup(seed=0, dropout=0.0, kind=SMALL_GRU, **options):
    model = kind(22, d_model=8, max_len=6, dropout=dropout, rngs=nnx.Rngs(seed))
    graphdef, state = create_state(model, optax.adam(1e-2), seed)
    return make_train_step(graphdef, optax.adam(1e-2), **options), state


def batch(rows=16, weights=None):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, rows).astype(np.int32)
    ids = rng.integers(1, 20, (rows, 6)).astype(np.int32)
    return {
        "item_ids": ids * (np.arange(6) < lengths[:, None]),
        "lengths": lengths,
        "targets": rng.integers(1, 20, rows).astype(np.int32),
        "weights": np.ones(rows, np.float32) if weights is None else weights,
    }


@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        pytest.param(SMALL_ECHOMAMBA, "prefixes", marks=pytest.mark.slow),
        (SMALL_GRU, "all-positions"),
        pytest.param(Caser, "all-positions", marks=pytest.mark.slow),
        pytest.param(partial(BERT4Rec, layers=1), "cloze", marks=pytest.mark.slow),
    ],
)
def test_microbatches_add_up_to_the_batch(kind, objective):
    """Dropout included, although short rows are computed on fewer columns."""
    whole, state = setup(kind=kind, dropout=0.3, objective=objective)
    parts, same = setup(kind=kind, dropout=0.3, objective=objective, microbatch=4, columns=[3])
    rows = batch()
    if objective != "prefixes":
        rows["targets"] = np.roll(rows["item_ids"], -1, axis=1) + (rows["item_ids"] > 0)
    one, loss = whole(state, rows)
    other, other_loss = parts(same, rows)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-6)
    assert_same_moments(one, other)


def test_rows_of_weight_zero_do_nothing():
    """Nor in microbatches, of which the last one has fewer rows than the others then."""
    rows = batch(8, weights=np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32))
    rows["lengths"][5:], rows["item_ids"][5:], rows["targets"][5:] = 6, 3, 4
    (step, state), (parts, same) = setup(), setup(microbatch=4)
    one, loss = step(state, {name: values[:5] for name, values in rows.items()})
    other, other_loss = parts(same, rows)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-6)
    assert_same_moments(one, other)


def test_same_seed_same_bits_and_the_step_moves_the_dropout():
    results, (step, _) = [], setup(dropout=0.3)
    for _ in range(2):
        _, state = setup(dropout=0.3)
        losses = []
        for _ in range(3):
            state, loss = step(state, batch())
            losses.append(float(loss))
        results.append((losses, [np.asarray(leaf) for leaf in jax.tree.leaves(state)]))
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(a, b)
    later = setup(dropout=0.3)[1]._replace(step=jnp.int32(7))
    assert float(step(later, batch())[1]) != results[0][0][0]


def test_every_row_of_every_step_has_a_key_of_its_own():
    state = TrainState(jnp.int32(0), None, None, jax.random.key_data(jax.random.key(0)))
    of_step = jax.jit(lambda step: jax.random.key_data(row_keys(state._replace(step=step), 4)))
    keys = np.concatenate([of_step(step) for step in range(3)])
    assert len(np.unique(keys, axis=0)) == 12


def test_loss_falls_to_the_bottom_on_one_batch():
    step, state = setup()
    losses = []
    for _ in range(150):
        state, loss = step(state, batch(8))
        losses.append(float(loss))
    assert losses[0] == pytest.approx(np.log(20), rel=0.05)
    assert losses[-1] < 0.1
    assert int(state.step) == 150
