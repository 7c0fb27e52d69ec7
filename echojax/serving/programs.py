"""A model as pure functions: what is compiled, and what is exported."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.evaluation.tiles import Top
from echojax.models import SequenceModel
from echojax.serving.top_k import top_k


def programs(model: SequenceModel) -> tuple[nnx.State, Callable[..., Top], Callable[..., Any]]:
    """Return a model's parameters and two functions of them.

    Returns:
        params: the first argument of both.
        recommend: ``(params, item_CxD, item_ids_BxL, lengths_B, excluded_BxS, num_items, *, k,
            approx=None) -> Top`` of columns, as ``top_k`` does.
        score: ``(params, item_VxD, item_ids_1xL, lengths_1, items_C) -> score_C``, float32.
    """
    graphdef, params = nnx.split(model)

    def recommend(
        params: nnx.State, item_CxD: jax.Array, item_ids_BxL: jax.Array, lengths_B: jax.Array,
        excluded_BxS: jax.Array, num_items: jax.Array | int, *, k: int,
        approx: float | None = None,
    ) -> Top:  # fmt: skip
        user_BxD = nnx.merge(graphdef, params).encode(item_ids_BxL, lengths_B)
        return top_k(user_BxD, item_CxD, excluded_BxS, num_items, k=k, recall=approx)

    def score(
        params: nnx.State, item_VxD: jax.Array, item_ids_1xL: jax.Array, lengths_1: jax.Array,
        items_C: jax.Array,
    ) -> jax.Array:  # fmt: skip
        user_1xD = nnx.merge(graphdef, params).encode(item_ids_1xL, lengths_1)
        item_CxD = item_VxD[items_C].astype(jnp.float32)
        return jnp.matmul(
            item_CxD, user_1xD[0].astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
        )

    return params, recommend, score
