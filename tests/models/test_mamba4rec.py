"""Mamba4Rec against its equations, and its promises."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from echojax.models.mamba4rec import Mamba4Rec
from tests.models.float64_mamba import mamba4rec
from tests.models.promises import (
    HISTORIES,
    IDS,
    LENGTHS,
    CausalPromises,
    TimedCausalPromises,
    by_name,
    float64,
)


class TestMamba4Rec(CausalPromises):
    kind = Mamba4Rec

    def encode(self, p, items):
        return mamba4rec(p, items)


class TestTimed(TimedCausalPromises):
    kind = staticmethod(functools.partial(Mamba4Rec, time_gaps=True, scan="sequential"))

    def encode(self, p, items, gaps):
        return mamba4rec(p, items, gaps)


@pytest.mark.usefixtures("x64")
def test_layers_have_a_residual_where_there_are_several():
    graphdef, params = float64(Mamba4Rec, layers=2)
    encode_all = jax.jit(lambda params: nnx.merge(graphdef, params).encode_all(IDS, LENGTHS))
    everywhere = encode_all(params)
    for items, vectors in zip(HISTORIES, everywhere, strict=True):
        for stop in range(1, len(items) + 1):
            expected = mamba4rec(by_name(params), items[:stop])
            np.testing.assert_allclose(vectors[stop - 1], expected, rtol=1e-9, atol=1e-9)
