"""Several histories in a row teach what each of them does in a row of its own."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from echojax.config import Config
from echojax.data import Batches
from echojax.data.examples import Windows
from echojax.data.packing import packed
from echojax.errors import UserError
from echojax.models.mamba4rec import Mamba4Rec
from echojax.training.builders import choose_microbatch, resolved
from echojax.training.step import create_state, make_train_step
from tests.models.promises import float64

REFUSED = [
    ({"model": "sasrec"}, "--pack is for mamba4rec, not for --model sasrec"),
    ({"model": "popularity"}, "--pack is for mamba4rec, not for --model popularity"),
    ({"objective": "prefixes"}, "--pack is for --objective all-positions, not for prefixes"),
    ({"loss": "bpr"}, "--pack is not for --loss bpr; leave one of them out"),
    ({"sequence_shards": 2}, "--pack is not for --sequence-shards; leave one of them out"),
]
# Of three rows two are enough for the longest, and a history meets the end of its row.
LENGTHS = [7, 1, 3, 2, 1, 5, 1, 4]


def windows(lengths, max_len):
    """Return a batch whose events are all different, targets and gaps too."""
    inside = np.arange(max_len) < np.array(lengths)[:, None]
    items = np.arange(1, inside.size + 1, dtype=np.int32).reshape(inside.shape) * inside
    return {
        "item_ids": items,
        "targets": np.where(inside, items % 20 + 1, 0).astype(np.int32),
        "gaps": np.where(inside & (np.arange(max_len) > 0), np.log1p(items), 0).astype(np.float32),
        "lengths": inside.sum(axis=1).astype(np.int32),
        "weights": np.ones(len(lengths), np.float32),
    }


@pytest.mark.usefixtures("x64")
def test_loss_and_gradients_are_those_of_the_rows_apart():
    """Two layers, gaps, a row of weight 0, and microbatches that hold nothing."""
    rows = windows(LENGTHS, 7)
    rows["weights"][3] = 0
    optimizer, sizes = optax.sgd(1.0), {"layers": 2, "dropout": 0.0, "time_gaps": True}
    graphdef, params = float64(Mamba4Rec, scan="sequential", **sizes)  # quick to compile
    ends = []
    for given_rows, microbatch in ((rows, None), (packed(rows), 2)):
        _, state = create_state(nnx.merge(graphdef, params), optimizer, 0)
        step = make_train_step(
            graphdef, optimizer, objective="all-positions", microbatch=microbatch
        )
        items, weights = given_rows["item_ids"] % 20, given_rows["weights"].astype(np.float64)
        state, loss = step(state, given_rows | {"item_ids": items, "weights": weights})
        ends.append((loss, state.params))
    assert ends[0][0].dtype == np.float64
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12), *ends)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.data())
def test_every_history_lies_whole_in_one_row(lengths, data):
    batch = windows(lengths, 9)
    weights = data.draw(st.lists(st.sampled_from([0, 1]), min_size=len(lengths)).filter(any))
    batch["weights"] = np.resize(weights, len(lengths)).astype(np.float32)
    rows = packed(batch)
    assert {name: x.shape for name, x in rows.items() if name in batch} == {
        name: x.shape for name, x in batch.items()
    }
    ids = rows["segment_ids"]
    np.testing.assert_array_equal(ids > 0, np.arange(9) < rows["lengths"][:, None])
    np.testing.assert_array_equal(rows["weights"], rows["lengths"] > 0)
    for history, weight in enumerate(batch["weights"]):
        row, column = np.nonzero(ids == history + 1)
        expected = lengths[history] if weight else 0
        assert column.tolist() == list(range(*column[:1], column[0] + expected) if expected else [])
        assert len(set(row.tolist())) == bool(expected)
        for name in ("item_ids", "targets", "gaps"):
            np.testing.assert_array_equal(rows[name][row, column], batch[name][history, :expected])
    # No two rows could have been one.
    used = np.sort(rows["lengths"][rows["lengths"] > 0])
    assert used.size < 2 or used[0] + used[1] > 9


def test_each_device_packs_its_share_of_a_batch():
    """Of 11 stretches of 3 items each; the last batch has 3 that only fill up."""
    lengths_M = np.full(11, 3, np.int32)
    shown = Windows(np.arange(1, 50, dtype=np.int32), 4 * np.arange(11), lengths_M, max_len=7)
    feed = Batches(shown, 7, 0, rows=range(8), pack=4)
    rows = [feed[step] for step in range(2)]
    assert [batch["lengths"].tolist() for batch in rows] == [
        [6, 6, 0, 0, 6, 3, 0, 0],
        [6, 6, 0, 0, 0, 0, 0, 0],
    ]
    items = np.concatenate([batch["item_ids"][batch["segment_ids"] > 0] for batch in rows])
    assert sorted(items.tolist()) == [i for i in range(1, 45) if i % 4]


def test_a_microbatch_is_a_quarter_of_the_rows_that_hold_something():
    config = resolved(Config(model="mamba4rec", pack=True, max_len=50, batch_size=128))
    chosen = [choose_microbatch(config, 128, 1000, np.array([n]), []) for n in (1, 6, 25, 50)]
    assert chosen == [1, 4, 16, 32]


@pytest.mark.parametrize(("flags", "says"), REFUSED)
def test_what_cannot_be_packed_is_refused(flags, says):
    with pytest.raises(UserError, match=says):
        resolved(Config(**{"model": "mamba4rec", "pack": True} | flags))
