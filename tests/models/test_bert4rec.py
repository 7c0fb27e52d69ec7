"""BERT4Rec against its equations, and its promises."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from echojax.models.bert4rec import BERT4Rec
from tests.models import float64_layers as layers
from tests.models.promises import IDS, LENGTHS, Promises, build, by_name, float64

HIDDEN = np.array(
    [[0, 1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0]],
    bool,
)


def encode_hidden(model, item_ids):
    x_BxLxD, _ = model.lookup(item_ids)
    return model.read_hidden(x_BxLxD, LENGTHS, HIDDEN)


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
        encode = jax.jit(functools.partial(encode_hidden, build(BERT4Rec)))
        changed = np.where(HIDDEN, 1 + IDS % 9, IDS)
        assert (changed != IDS)[HIDDEN].all()
        np.testing.assert_array_equal(encode(IDS), encode(changed))


def by_definition(p, items, hidden):
    x = np.where(np.array(hidden)[:, None], p["hidden_D"], p["item_embedding"][items])
    x = layers.transformer(p["transformer"], x, 2, causal=False)
    x = layers.layer_norm(p["norm"], layers.gelu(layers.linear(p["dense"], x)))
    return np.hstack([x, np.ones((len(x), 1))])
