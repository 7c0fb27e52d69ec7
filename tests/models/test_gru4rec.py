"""GRU4Rec and its recurrent layer against their equations, and its promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from echojax.models.gru import recurrence
from echojax.models.gru4rec import GRU4Rec
from tests.models import float64_layers as layers
from tests.models.promises import CausalPromises


class TestGRU4Rec(CausalPromises):
    kind = GRU4Rec

    def encode(self, p, items):
        x = p["item_embedding"][items]
        for layer in p["layers"].values():
            x = layers.gru(layer, x)
        return layers.linear(p["dense"], x[-1])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 3, 5)])
def test_recurrence_gradient_is_that_of_its_value(shape):
    length, batch, size = shape
    rng = np.random.default_rng(0)
    arrays = [
        jnp.asarray(rng.normal(size=s))
        for s in ((length, batch, 3 * size), (size, 3 * size), (3 * size,))
    ]
    check_grads(jax.jit(recurrence), arrays, order=1, modes=["rev"], rtol=1e-6)
