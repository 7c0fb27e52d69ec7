"""The item table as a learned linear map of given vectors, added to the id embedding or alone.

Models do not depend on it. Training differentiates a model whose table is ``folded``; that table,
with a row for every item that has a vector, is also in the model that is evaluated, served and
exported. Only items that occur in training have rows of parameters; other items are scored by their
vectors alone, independently of initial values and gradients.

V is the number of items with padding, F the length of a vector, D the model's size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from echojax.config import Config
from echojax.data import ItemVectors
from echojax.models.layers import normal
from echojax.parameters import is_per_item

_TABLE, PROJECTION = "item_embedding", "item_projection"
_NO_STEP = 2**32 - 2  # steps fold their number into the same key, and stay below this one


class Projection(NamedTuple):
    """The projection of a model's item table."""

    vector_size: int  # F
    replace: bool = False  # whether it replaces the id embedding


def projection_of(config: Config, vectors: ItemVectors | None) -> Projection | None:
    """Return the projection of a configuration; ``None`` without item vectors."""
    if vectors is None:
        return None
    return Projection(vectors.vectors_NxF.shape[1], config.item_vectors_use == "replace")


def with_projection(params: nnx.State, projection: Projection, seed: int) -> nnx.State:
    """Return the trained parameters: those of a model, with the projection added.

    ``item_projection``, float32 (F, D), is drawn from ``seed``. If it replaces the id embedding,
    ``item_embedding`` is removed.
    """
    trained = dict(params)
    table: nnx.Variable = trained.pop(_TABLE) if projection.replace else trained[_TABLE]
    key = jax.random.fold_in(jax.random.key(seed), _NO_STEP)
    map_FxD = normal(key, (projection.vector_size, table.shape[1]))
    return nnx.State({**trained, PROJECTION: nnx.Param(map_FxD, keep_float32=True)})


def as_params(vectors_VxF: Array | np.ndarray) -> nnx.State:
    """Return vectors as a state that is sharded over devices like the item table."""
    return nnx.State({"item_vectors": nnx.Param(vectors_VxF, per_item=True)})


def complete(params: nnx.State, vectors: ItemVectors | None) -> nnx.State:
    """Return the parameters of a model with a row for every item, from the trained ones."""
    return params if vectors is None else folded(params, as_params(vectors.vectors_VxF))


def folded(params: nnx.State, vectors: nnx.State) -> nnx.State:
    """Return the parameters of a model from the trained ones, those of ``with_projection``.

    The item table is ``vectors @ item_projection``, plus the id embedding if there is one.
    ``vectors``, (V, F), are from ``as_params``; all arrays may be a device's shards. Items that do
    not occur in training get rows of 0 in all other parameters.
    """
    plain = dict(params)
    vectors_VxF = vectors["item_vectors"][...]
    map_FxD = plain.pop(PROJECTION)[...]
    projected_VxD = jnp.matmul(vectors_VxF, map_FxD, precision=jax.lax.Precision.HIGHEST)
    rows = vectors_VxF.shape[0]
    for name, param in plain.items():
        if isinstance(param, nnx.Variable) and is_per_item(param.get_metadata()):
            value = jnp.asarray(param[...])
            missing = [(0, rows - len(value)), *[(0, 0)] * (value.ndim - 1)]
            plain[name] = param.replace(jnp.pad(value, missing))
    if _TABLE in plain:
        plain[_TABLE] = plain[_TABLE].replace(plain[_TABLE][...] + projected_VxD)
    else:
        plain[_TABLE] = nnx.Param(projected_VxD, per_item=True, keep_float32=True)
    return nnx.State(plain)
