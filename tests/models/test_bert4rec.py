"""BERT4Rec against its equations, and its promises."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from echojax.models.bert4rec import BERT4Rec
from tests.models import float64_layers as layers
from tests.models.promises import IDS, LENGTHS, Promises, build, by_name, compiled, float64

HIDDEN = np.array(
    [[0, 1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0]],
    bool,
)


def encode_hidden(model, item_ids):
    x_BxLxD, _ = model.lookup(item_ids)
    return model.read_hidden(x_BxLxD, LENGTHS, HIDDEN)


@functools.cache
def compiled_hidden():
    return jax.jit(functools.partial(encode_hidden, build(BERT4Rec)))


class TestBERT4Rec(Promises):
    kind = BERT4Rec

    def encode(self, p, items):
        shown = items[-(self.max_len - 1) :]
        return by_definition(p, [*shown, 0], [*[False] * len(shown), True])[-1]

    def output_embeddings(self, p):
        return np.hstack([p["item_embedding"], p["item_bias_V"][:, None]])

    @pytest.mark.usefixtures("x64")
    def test_vectors_at_all_positions_are_those_of_the_equations(self):
        graphdef, params = float64(BERT4Rec)

        @jax.jit
        def encode(params):
            return encode_hidden(nnx.merge(graphdef, params), IDS)

        ours = encode(params)
        p = by_name(params)
        for row, length in enumerate(LENGTHS):
            theirs = by_definition(p, IDS[row, :length], HIDDEN[row, :length])
            np.testing.assert_allclose(ours[row, :length], theirs, rtol=1e-9, atol=1e-9)

    def test_no_vector_tells_a_hidden_item(self):
        encode = compiled_hidden()
        changed = np.where(HIDDEN, 1 + IDS % 9, IDS)
        assert (changed != IDS)[HIDDEN].all()
        np.testing.assert_array_equal(encode(IDS), encode(changed))

    def test_items_on_both_sides_reach_a_hidden_one(self):
        encode = compiled_hidden()
        before = encode(IDS)
        for position in (1, 2, 5, 6):
            changed = IDS.copy()
            changed[1, position] = 4
            after = encode(changed)
            assert not np.allclose(after[1, 3], before[1, 3], atol=1e-3)

    def test_the_oldest_item_makes_room_in_a_full_window(self):
        encode = compiled(BERT4Rec)
        changed = IDS.copy()
        changed[1, 0] = 4
        np.testing.assert_array_equal(encode(changed, LENGTHS), encode(IDS, LENGTHS))
        changed[1, 1] = 4
        assert not np.allclose(encode(changed, LENGTHS)[1], encode(IDS, LENGTHS)[1], atol=1e-3)


def by_definition(p, items, hidden):
    x = np.where(np.array(hidden)[:, None], p["hidden_D"], p["item_embedding"][items])
    x = layers.transformer(p["transformer"], x, 2, causal=False)
    x = layers.layer_norm(p["norm"], layers.gelu(layers.linear(p["dense"], x)))
    return np.hstack([x, np.ones((len(x), 1))])


def test_hidden_items_vector_and_biases_are_no_part_of_the_table():
    model = build(BERT4Rec)
    assert model.item_embedding.shape == (10, 8)
    catalogue = np.asarray(model.output_embeddings())
    np.testing.assert_array_equal(catalogue[:, :8], model.item_embedding[...])
    np.testing.assert_array_equal(catalogue[:, 8], model.item_bias_V[...])
