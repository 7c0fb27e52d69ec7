"""Attention of long rows on a CPU, a block of queries at a time.

XLA has no fused attention for CPUs: (B, heads, L, L) scores go to memory several times, 16 GB of
them at 128 rows of 4,000. Here a row's block of scores stays in a core's cache, and what lies
behind a causal block is not computed. The gradient computes a row's scores again.

Dimension letters of this module: H heads, K = D / H, Q the queries of a block, S the keys it sees.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_LEAST_QUERIES = 64  # that a row has before it is worth it
_LEAST_BLOCK = 128  # queries
_MOST_BLOCKS = 16  # each is a piece of program to compile

# (score_HxQxS, positions of the queries, length of the row) -> weights of the values.
Weigh = Callable[[jax.Array, jax.Array, Any], jax.Array]


def is_better(queries: int) -> bool:
    """Return whether blocks are faster here, by the number of queries."""
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

    def weigh(score_HxQxS: jax.Array, position_Q: jax.Array, length: Any) -> jax.Array:
        key_S = jnp.arange(score_HxQxS.shape[2])
        see_QxS = key_S < length
        if causal:
            see_QxS &= key_S <= position_Q[:, None]
        return jax.nn.softmax(jnp.where(see_QxS, score_HxQxS, -jnp.inf), axis=-1)

    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (query_BxLxHxK, key_BxLxHxK, value_BxLxHxK))
    y_BxHxLxK = in_blocks(q * q.shape[-1] ** -0.5, k, v, lengths_B, weigh, causal=causal)
    return jnp.swapaxes(y_BxHxLxK, 1, 2)


def in_blocks(
    query_BxHxLxK: jax.Array,
    key_BxHxLxK: jax.Array,
    value_BxHxLxK: jax.Array,
    lengths_B: jax.Array | None,
    weigh: Weigh,
    *,
    causal: bool,
) -> jax.Array:
    """Return ``weigh(q k^T) v`` at every position, (B, H, L, K).

    Args:
        query_BxHxLxK: scaled.
        key_BxHxLxK: as many.
        value_BxHxLxK: as many.
        lengths_B: a row's is handed to ``weigh``.
        weigh: gives the weights of a block; scores are float32, or float64 where the queries are.
        causal: whether blocks of keys behind the queries are left out.
    """

    @jax.checkpoint
    def row(
        query_HxLxK: jax.Array, key_HxLxK: jax.Array, value_HxLxK: jax.Array, length: Any
    ) -> jax.Array:
        positions = query_HxLxK.shape[1]
        exact = jnp.promote_types(query_HxLxK.dtype, jnp.float32)
        block = max(_LEAST_BLOCK, -(-positions // _MOST_BLOCKS))
        found = []
        for first in range(0, positions, block):
            stop = min(first + block, positions)
            seen = stop if causal else positions
            score_HxQxS = jnp.einsum(
                "hqk,hsk->hqs", query_HxLxK[:, first:stop], key_HxLxK[:, :seen],
                preferred_element_type=exact,
            )  # fmt: skip
            weight_HxQxS = weigh(score_HxQxS, jnp.arange(first, stop), length)
            found.append(weight_HxQxS.astype(value_HxLxK.dtype) @ value_HxLxK[:, :seen])
        return jnp.concatenate(found, axis=1)

    rows = (query_BxHxLxK, key_BxHxLxK, value_BxHxLxK, lengths_B)
    return jax.lax.map(lambda one: row(*one), rows)
