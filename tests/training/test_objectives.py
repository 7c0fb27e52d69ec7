"""What a batch teaches under each objective."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from echojax.models.bert4rec import BERT4Rec
from echojax.training.objectives import all_positions, cloze, prefixes

# Of a user 1 2 3 .. 9: the newest stretch, a short one, and the shortest there is.
STRETCHES = {
    "item_ids": np.array([[4, 5, 6, 7, 8], [1, 2, 3, 0, 0], [6, 0, 0, 0, 0]], np.int32),
    "lengths": np.array([5, 3, 1], np.int32),
    "targets": np.array([[5, 6, 7, 8, 9], [2, 3, 4, 0, 0], [7, 0, 0, 0, 0]], np.int32),
    "weights": np.array([1, 1, 0], np.float32),
}
SEQUENCES = [[5, 6, 7, 8, 9], [1, 2, 3, 4, 0], [6, 7, 0, 0, 0]]


def keys(rows, seed=0):
    return jax.random.split(jax.random.key(seed), rows)


def stretches(rows, lengths, length=50):
    inside = np.arange(length) < np.broadcast_to(lengths, rows)[:, None]
    items = np.arange(1, length + 1) * inside
    return {
        "item_ids": items.astype(np.int32),
        "lengths": inside.sum(axis=1).astype(np.int32),
        "targets": ((items + 1) * inside).astype(np.int32),
        "weights": np.ones(rows, np.float32),
    }


def fake(**methods):
    """Return a model that reads item numbers in the place of vectors."""
    own = {"arranged": lambda *given: given, "lookup": lambda items_BxL: (items_BxL, None)}
    return SimpleNamespace(**own, times=lambda _: {}, **methods)


def recorder(mask_rate):
    """Return a model whose vectors are what it was told: its items and which are hidden."""

    def read_hidden(items_BxL, lengths_B, hidden_BxL, *, dropout_keys):
        assert dropout_keys is not None
        return jnp.stack([items_BxL, hidden_BxL * 1, 0 * items_BxL + lengths_B[:, None]], axis=-1)

    return fake(mask_rate=mask_rate, read_hidden=read_hidden)


@functools.cache
def recording(mask_rate=0.2):
    """Return cloze for a recorder, compiled once for each shape."""
    return jax.jit(functools.partial(cloze, recorder(mask_rate)))


def told(batch, mask_rate=0.2, seed=0):
    """Return items, hidden (booleans) and lengths that cloze gives the model, and predictions."""
    predictions = recording(mask_rate)(batch, keys(len(batch["lengths"]), seed))
    items, hidden, lengths = np.moveaxis(np.asarray(predictions.user_BxPxD), -1, 0)
    return items, hidden.astype(bool), lengths[:, 0], predictions


def read_all(item_ids_BxL, lengths_B, *, dropout_keys):
    """Return vectors that tell all that the model was given: items, length, keys."""
    key_B = jax.random.key_data(dropout_keys)[:, :1].astype(jnp.int32)
    given = [item_ids_BxL, 0 * item_ids_BxL + lengths_B[:, None], 0 * item_ids_BxL + key_B]
    return jnp.stack(given, axis=-1)


def test_prefixes_are_the_encoded_histories_and_the_items_behind_them():
    def read_out(item_ids_BxL, lengths_B, *, dropout_keys):
        return read_all(item_ids_BxL, lengths_B, dropout_keys=dropout_keys).sum(axis=1)

    batch = STRETCHES | {"targets": np.array([9, 4, 7], np.int32)}
    user, targets, weights, _ = prefixes(fake(read_out=read_out), batch, keys(3))
    expected = read_out(batch["item_ids"], batch["lengths"], dropout_keys=keys(3))
    np.testing.assert_array_equal(user, expected[:, None])
    assert targets.tolist() == [[9], [4], [7]]
    assert weights.tolist() == [[1], [1], [0]]


def test_all_positions_weigh_targets_and_no_padding():
    model = fake(read_all=read_all, time_axis=None)
    user, targets, weights, _ = all_positions(model, STRETCHES, keys(3))
    expected = read_all(STRETCHES["item_ids"], STRETCHES["lengths"], dropout_keys=keys(3))
    np.testing.assert_array_equal(user, expected)
    np.testing.assert_array_equal(targets, STRETCHES["targets"])
    assert weights.tolist() == [[1] * 5, [1, 1, 1, 0, 0], [0] * 5]


def test_cloze_reads_the_items_and_the_last_target():
    items, hidden, lengths, predictions = told(STRETCHES)
    assert items.tolist() == SEQUENCES
    assert lengths.tolist() == [5, 4, 2]
    np.testing.assert_array_equal(predictions.targets_BxP, items)
    np.testing.assert_array_equal(predictions.weights_BxP, hidden * STRETCHES["weights"][:, None])


@pytest.mark.parametrize("mask_rate", [0.2, 0.615])
def test_cloze_hides_its_share_and_in_a_tenth_of_the_rows_the_last_alone(mask_rate):
    rows = 4000
    items, hidden, _, _ = told(stretches(rows, 49), mask_rate)
    assert items[0].tolist() == list(range(1, 51))
    last_alone = hidden[:, -1] & (hidden.sum(axis=1) == 1)
    assert abs(last_alone.mean() - 0.1) < 0.02
    assert (hidden[~last_alone].sum(axis=1) == round(50 * mask_rate)).all()
    # No place is hidden more often than another.
    assert np.abs(hidden[~last_alone].mean(axis=0) - mask_rate).max() < 0.04


def test_cloze_hides_at_least_one_item_and_no_padding():
    lengths = np.arange(2000) % 50 + 1
    items, hidden, given, _ = told(stretches(2000, lengths), mask_rate=0.01)
    assert (hidden.sum(axis=1) >= 1).all()
    assert not hidden[items == 0].any()
    np.testing.assert_array_equal(given, np.minimum(lengths + 1, 50))
    # Where one alone is hidden, it may be any: not only the first or the last.
    pairs = hidden[lengths == 1][:, :2]
    assert len(pairs) == 40
    assert (pairs.any(axis=0)).all()


def test_cloze_follows_each_rows_key():
    batch = stretches(100, 40)
    hidden, again, other = (told(batch, seed=seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(hidden, again)
    # In one row of a hundred either seed hides the last item alone.
    assert (hidden != other).any(axis=1).mean() > 0.9
    row = jax.tree.map(lambda x: x[2:3], batch)
    alone = recording()(row, keys(100)[2:3]).user_BxPxD[..., 1]
    np.testing.assert_array_equal(alone[0], hidden[2])


def test_cloze_lets_no_hidden_item_reach_a_vector():
    sizes = {"d_model": 8, "max_len": 5, "dropout": 0.5, "mask_rate": 0.4}
    model = BERT4Rec(12, **sizes, rngs=nnx.Rngs(0))
    hide = jax.jit(lambda batch: cloze(model, batch, keys(3)))
    user, targets, weights, _ = hide(STRETCHES)
    hidden = told(STRETCHES, mask_rate=0.4)[1]
    np.testing.assert_array_equal(weights, hidden * STRETCHES["weights"][:, None])
    changed = {name: array.copy() for name, array in STRETCHES.items()}
    for row, places in enumerate(hidden):
        for item in np.array(SEQUENCES)[row][places]:
            changed["item_ids"][row][STRETCHES["item_ids"][row] == item] = 11
            changed["targets"][row][STRETCHES["targets"][row] == item] = 11
    other, moved, _, _ = hide(changed)
    assert (np.asarray(moved) == 11)[hidden].all()
    assert (np.asarray(targets) != 11).all()
    np.testing.assert_array_equal(other, user)
