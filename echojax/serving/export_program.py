"""A model as a program of ``jax.export``, which runs without echojax.

It answers with the best items, not with scores of the whole catalogue: these would be 4 V bytes a
history (40 MB at ten million items) to move off the device and to search again. The search, with
the exclusion of what a user has seen, is part of it and goes through the catalogue in tiles, so
that its memory does not grow with V. How many items it gives is fixed at export; whoever needs
fewer takes the first.

Weights are an argument: the program stays small, and other weights of the same sizes fit it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import export

from echojax.interop.weights import weights
from echojax.models import SequenceModel
from echojax.serving.top_k import top_k

PLATFORMS = ("cpu", "cuda", "tpu")


def export_program(model: SequenceModel, k: int) -> export.Exported:
    """Return the program that recommends, for any number of histories, on all of ``PLATFORMS``.

    Its arguments are ``weights`` (arrays by dotted name), ``item_ids`` (the newest items' numbers,
    int32 (B, max_len), right padded with 0), ``lengths`` (items in each row, int32 (B,), at least
    1) and ``seen`` (items not to recommend, int32 (B, S), padded with 0). It returns scores,
    float32 (B, k), in falling order and these items' numbers, int32 (B, k); minus infinity and 0
    where fewer are left.

    Args:
        model: with a scan that runs anywhere.
        k: how many items.
    """
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def recommend(
        arrays: dict[str, jax.Array], item_ids_BxL: jax.Array, lengths_B: jax.Array,
        seen_BxS: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:  # fmt: skip
        def given(path: tuple[Any, ...], param: nnx.Variable) -> nnx.Variable:
            return param.replace(arrays[".".join(map(str, path))])

        model = nnx.merge(graphdef, nnx.map_state(given, params), rest)

        def encode(item_ids_L: jax.Array, length: jax.Array) -> jax.Array:
            return model.encode(item_ids_L[None], length[None])[0]

        # Mapped over rows, because models tile by the batch, which has no number here.
        user_BxD = jax.vmap(encode)(item_ids_BxL, lengths_B)
        item_VxD = model.catalogue()
        top = top_k(user_BxD, item_VxD, seen_BxS, item_VxD.shape[0], k=k)
        return top.score_BxK, top.item_BxK

    batch, seen = export.symbolic_shape("b, s")
    like = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in weights(model).items()
    }
    with _without_source_locations():
        return export.export(jax.jit(recommend), platforms=PLATFORMS)(
            like,
            jax.ShapeDtypeStruct((batch, model.max_len), jnp.int32),
            jax.ShapeDtypeStruct((batch,), jnp.int32),
            jax.ShapeDtypeStruct((batch, seen), jnp.int32),
        )


@contextmanager
def _without_source_locations() -> Iterator[None]:
    """Keep the paths of this machine's source files out of what is lowered."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
