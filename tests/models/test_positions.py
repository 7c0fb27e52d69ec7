"""What the shards of a history exchange, by its shape: that needs no devices."""

import jax
import jax.numpy as jnp
import pytest

from echojax.models.positions import neighbours


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_shard_gets_as_many_neighbours_as_it_asks_for(count, reverse):
    """A convolution of width 1 asks for none."""
    traced = jax.make_jaxpr(
        lambda x: neighbours(x, count, "time", reverse=reverse), axis_env=[("time", 3)]
    )(jnp.zeros((2, 4, 5)))
    assert traced.out_avals[0].shape == (2, count, 5)
