"""Activations in bfloat16, and what stays in float32 where precision matters."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.base import SequenceModel

# Parameters that are not cast, so that what is computed with them is float32: the item table (its
# gradient sums over a batch), time steps, decays and skips of Mamba, the filter's spectrum, the
# recurrence of a GRU. Normalisations take their moments in float32 whatever they are given.
_FLOAT32 = (
    "item_embedding", "A_log_ExN", "dt_proj", "dt_bias_E", "D_E", "weight_FxDx2", "x_kernel_Dx3H",
    "h_kernel_Hx3H", "bias_2x3H", "item_bias_V",
)  # fmt: skip

PRECISIONS = {"float32": None, "bf16": jnp.bfloat16}


def with_precision(model: SequenceModel, precision: str) -> SequenceModel:
    """Return a model that computes with activations of the named precision.

    ``model`` is one that was merged for the traced function at hand: it may be changed. Gradients
    with respect to what it was merged from are of the parameters' own dtype.
    """
    dtype = PRECISIONS[precision]
    if dtype is None:
        return model
    graphdef, params = nnx.split(model)

    def cast(path: Any, x: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        return x if any(kept in name for kept in _FLOAT32) else x.astype(dtype)

    model = nnx.merge(graphdef, jax.tree_util.tree_map_with_path(cast, params))
    model.activations = dtype
    return model
