"""Softmax attention of long rows on a CPU, a block of queries at a time.

XLA has no fused attention for CPUs: (B, heads, L, L) scores go to memory several times, 16 GB of
them at 128 rows of 4,000. Here a row's block of scores stays in a core's cache, and what lies
behind a causal block is not computed. The gradient computes a row's scores again.
"""

from functools import partial

import jax
import jax.numpy as jnp

_LEAST_QUERIES = 64  # that a row has before it is worth it
_LEAST_BLOCK = 128  # queries
_MOST_BLOCKS = 16  # each is a piece of program to compile


def is_better(queries: int) -> bool:
    """Return whether ``blocked_attention`` is the faster one here, by the number of queries."""
    return queries > _LEAST_QUERIES and jax.default_backend() == "cpu"


def blocked_attention(
    query_BxLxHxK: jax.Array,
    key_BxLxHxK: jax.Array,
    value_BxLxHxK: jax.Array,
    lengths_B: jax.Array,
    *,
    causal: bool,
) -> jax.Array:
    """Return ``softmax(q k^T / sqrt(K)) v`` at every position, (B, L, H, K).

    Args:
        query_BxLxHxK: one for each of H heads.
        key_BxLxHxK: as many.
        value_BxLxHxK: as many.
        lengths_B: keys at and past it are not seen; at least 1.
        causal: whether a position sees none behind it.
    """
    by_head = (jnp.swapaxes(x, 1, 2) for x in (query_BxLxHxK, key_BxLxHxK, value_BxLxHxK))
    row = jax.checkpoint(partial(_row, causal=causal))
    y_BxHxLxK = jax.lax.map(lambda one: row(*one), (*by_head, lengths_B))
    return jnp.swapaxes(y_BxHxLxK, 1, 2)


def _row(
    query_HxLxK: jax.Array,
    key_HxLxK: jax.Array,
    value_HxLxK: jax.Array,
    length: jax.Array,
    *,
    causal: bool,
) -> jax.Array:
    positions = query_HxLxK.shape[1]
    query_HxLxK *= query_HxLxK.shape[2] ** -0.5
    exact = jnp.promote_types(query_HxLxK.dtype, jnp.float32)  # scores, whatever the rest
    block = max(_LEAST_BLOCK, -(-positions // _MOST_BLOCKS))
    found = []
    for first in range(0, positions, block):
        stop = min(first + block, positions)
        seen = stop if causal else positions
        score_HxQxS = jnp.einsum(
            "hqk,hsk->hqs", query_HxLxK[:, first:stop], key_HxLxK[:, :seen],
            preferred_element_type=exact,
        )  # fmt: skip
        see_QxS = jnp.arange(seen) < length
        if causal:
            see_QxS &= jnp.arange(seen) <= jnp.arange(first, stop)[:, None]
        score_HxQxS = jnp.where(see_QxS, score_HxQxS, -jnp.inf)
        weight_HxQxS = jax.nn.softmax(score_HxQxS, axis=-1).astype(value_HxLxK.dtype)
        found.append(weight_HxQxS @ value_HxLxK[:, :seen])
    return jnp.concatenate(found, axis=1)
