"""What training changes from step to step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx


class TrainState(NamedTuple):
    """Everything a step reads and writes; a pytree of arrays.

    Args:
        step: int32 scalar, steps done. It is also the data position: batch number ``step`` is next.
        params: the model's parameters (``nnx.State``).
        opt_state: optax's.
        key: uint32 data of the run's random key; step s draws from ``fold_in(key, s)``.
    """

    step: jax.Array
    params: nnx.State
    opt_state: optax.OptState
    key: jax.Array


def create_state(
    model: nnx.Module, optimizer: optax.GradientTransformation, seed: int
) -> tuple[nnx.GraphDef, TrainState]:
    """Split ``model`` and return its structure and the state before the first step."""
    graphdef, params = nnx.split(model)
    key = jax.random.key_data(jax.random.key(seed))
    return graphdef, TrainState(jnp.int32(0), params, optimizer.init(params), key)


def state_shapes(
    make_model: Callable[[], nnx.Module], optimizer: optax.GradientTransformation
) -> tuple[nnx.GraphDef, TrainState]:
    """Return what ``create_state`` does, shapes and dtypes in place of arrays.

    Initial values cost seconds, and a checkpoint that is read needs none.
    """
    graphdef, params = nnx.split(nnx.eval_shape(make_model))

    def state(params: nnx.State) -> TrainState:
        return create_state(nnx.merge(graphdef, params), optimizer, 0)[1]

    return graphdef, jax.eval_shape(state, params)
