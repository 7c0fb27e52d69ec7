"""Mamba4Rec against its equations, and its promises."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from echojax.models.mamba import Mamba
from echojax.models.mamba4rec import Mamba4Rec
from tests.models.float64_mamba import mamba4rec
from tests.models.promises import (
    HISTORIES,
    IDS,
    LENGTHS,
    CausalPromises,
    TimedCausalPromises,
    by_name,
    filled,
    float64,
)


class TestMamba4Rec(CausalPromises):
    kind = Mamba4Rec

    def encode(self, p, items, gaps=None):
        return mamba4rec(p, items, gaps)


@pytest.mark.slow
class TestTimed(TimedCausalPromises):
    kind = staticmethod(functools.partial(Mamba4Rec, time_gaps=True, scan="sequential"))
    encode = TestMamba4Rec.encode


@pytest.mark.usefixtures("x64")
def test_layers_have_a_residual_where_there_are_several():
    graphdef, params = float64(Mamba4Rec, layers=2)
    encode_all = jax.jit(lambda params: nnx.merge(graphdef, params).encode_all(IDS, LENGTHS))
    everywhere = encode_all(params)
    for items, vectors in zip(HISTORIES, everywhere, strict=True):
        for stop in range(1, len(items) + 1):
            expected = mamba4rec(by_name(params), items[:stop])
            np.testing.assert_allclose(vectors[stop - 1], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_histories_equal_each_in_a_row_of_its_own(reverse):
    """Also where an id comes back within the taps of the convolution."""
    sizes = {"d_state": 2, "d_conv": 4, "expand": 1, "scan": "sequential"}
    mamba = filled(functools.partial(Mamba, 4, **sizes, time_step_init=True))
    x_1xLxD = np.random.default_rng(0).normal(size=(1, 6, 4)).astype(np.float32)
    ids, ends = jnp.array([[5, 5, 2, 5, 5, 2]]), (0, 2, 3, 5, 6)
    run = jax.jit(functools.partial(mamba, reverse=reverse))
    packed = run(x_1xLxD, segment_ids_BxL=ids)
    each = [run(x_1xLxD[:, first:end]) for first, end in pairwise(ends)]
    np.testing.assert_allclose(packed, np.concatenate(each, axis=1), rtol=1e-5, atol=1e-7)
