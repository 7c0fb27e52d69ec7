"""The item table as a learned linear map of given vectors, beside the id embedding or without it.

Models know nothing of it. Training differentiates a model whose table is ``folded``, and what is
evaluated, served and exported is a model with that table, which has a row for every item that has a
vector. Only items of training have rows of parameters: what training never saw is scored by its
vector alone, and no initial value or gradient can reach it.

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
_NO_STEP = 2**32 - 2  # steps fold their number into the same key; none comes this far


class Projection(NamedTuple):
    """How a model's parameters have the projection among them."""

    vector_size: int  # F
    replace: bool = False  # it takes the place of the id embedding


def projection_of(config: Config, vectors: ItemVectors | None) -> Projection | None:
    """Return the projection of a configuration and the items' vectors; none without them."""
    if vectors is None:
        return None
    return Projection(vectors.vectors_NxF.shape[1], config.item_vectors_use == "replace")


def with_projection(params: nnx.State, projection: Projection, seed: int) -> nnx.State:
    """Return the parameters that are trained, from a model's own.

    They have ``item_projection``, float32 (F, D), drawn from ``seed``; where it replaces the id
    embedding, they lack ``item_embedding``.
    """
    trained = dict(params)
    table: nnx.Variable = trained.pop(_TABLE) if projection.replace else trained[_TABLE]
    key = jax.random.fold_in(jax.random.key(seed), _NO_STEP)
    map_FxD = normal(key, (projection.vector_size, table.shape[1]))
    return nnx.State({**trained, PROJECTION: nnx.Param(map_FxD, keep_float32=True)})


def as_params(vectors_VxF: Array | np.ndarray) -> nnx.State:
    """Return vectors as what devices share as they share the item table."""
    return nnx.State({"item_vectors": nnx.Param(vectors_VxF, per_item=True)})


def complete(params: nnx.State, vectors: ItemVectors | None) -> nnx.State:
    """Return parameters of a model that has a row for every item, from those that are trained."""
    return params if vectors is None else folded(params, as_params(vectors.vectors_VxF))


def folded(params: nnx.State, vectors: nnx.State) -> nnx.State:
    """Return a model's own parameters from those that are trained, of ``with_projection``.

    The item table is ``vectors @ item_projection``, with the id embedding added where there is one;
    the vectors, (V, F), are from ``as_params``, or all is a device's part. Items past the last that
    was trained have no row of any parameter: theirs are 0.
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
