"""SASRec against its equations, and its promises."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from echojax.errors import UserError
from echojax.models.sasrec import SASRec
from tests.models import float64_layers as layers
from tests.models.promises import CausalPromises, TimedCausalPromises, build


class TestSASRec(CausalPromises):
    kind = SASRec

    def encode(self, p, items, gaps=None):
        x = p["item_embedding"][items]
        return layers.transformer(p["transformer"], x, 2, causal=True, gaps=gaps)[-1]


class TestTimed(TimedCausalPromises):
    kind = staticmethod(functools.partial(SASRec, time_gaps=True))
    encode = TestSASRec.encode


def test_parameters_are_recboles():
    params = nnx.state(nnx.eval_shape(lambda: SASRec(1000, rngs=nnx.Rngs(0))))
    attention = 4 * (64 * 64 + 64)
    feed_forward = 64 * 256 + 256 + 256 * 64 + 64
    norm = 2 * 64
    expected = (1000 + 50) * 64 + norm + 2 * (attention + feed_forward + 2 * norm)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match="--heads 3 does not divide --d-model 8"):
        SASRec(10, d_model=8, heads=3, rngs=nnx.Rngs(0))


def test_a_step_wants_the_position():
    model = build(SASRec)
    with pytest.raises(ValueError, match=r"SASRec.step needs the position of each item"):
        model.step(model.start(1), jnp.array([3]))
