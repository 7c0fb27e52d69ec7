"""Self-attention as in RecBole, a cache of keys and values, and attention in blocks of queries.

RecBole applies dropout to attention probabilities too. ``jax.nn.dot_product_attention``, which has
fused kernels on accelerators, cannot do that, so dropout is applied to the layers' outputs only.

XLA has no fused attention for CPUs: (B, heads, L, L) scores are written to memory several times, 16
GB of them at 128 rows of 4,000. In blocks of queries, the scores of a row stay in the cache of a
core, and keys after a causal block are not computed. The gradient recomputes the scores of a row.

Dimension letters: H heads, K = D / H, Q the queries of a block, S the keys it sees.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from echojax.errors import UserError
from echojax.models.layers import Gaps, Keys, LayerNorm, Linear, dropout, normal
from echojax.models.positions import at_position, mask

_LEAST_QUERIES = 64  # with more queries in a row, blocks are faster
_LEAST_BLOCK = 128  # queries in a block
_MOST_BLOCKS = 16  # per row; each one is compiled

# (score_HxQxS, positions of the queries, the row's data) -> weights of the values.
Weigh = Callable[[Array, Array, Any], Array]


class KeyValueCache(NamedTuple):
    """Keys and values of the positions so far, each (B, H, L, K): H heads, K = D / H."""

    key_BxHxLxK: Array
    value_BxHxLxK: Array

    @classmethod
    def of_all(cls, key_BxLxHxK: Array, value_BxLxHxK: Array) -> "KeyValueCache":
        """Return the cache of all positions at once."""
        return cls(jnp.swapaxes(key_BxLxHxK, 1, 2), jnp.swapaxes(value_BxLxHxK, 1, 2))

    def put(self, position_B: Array, key_BxHxK: Array, value_BxHxK: Array) -> "KeyValueCache":
        """Return the cache with row b's key and value at position[b]."""
        at = (jnp.arange(len(position_B)), slice(None), position_B)
        return KeyValueCache(
            self.key_BxHxLxK.at[at].set(key_BxHxK), self.value_BxHxLxK.at[at].set(value_BxHxK)
        )


class TimeBias(nnx.Module):
    """A learned bias of attention scores, by the time from the event of a key to that of a query.

    It is that of HSTU (arXiv 2402.17152, section 3.2, and the authors' code), the same for all
    heads: 128 buckets of the logarithm of the time, each 0.301 wide, with initial values 0. Here
    the query's time is that of its own event; HSTU's authors use that of the item to be predicted.
    """

    def __init__(self) -> None:
        self.bias_W = nnx.Param(jnp.zeros(128))

    def __call__(self, gaps_BxL: Array, position_BxQ: Array) -> Array:
        """Return the bias of every key to queries at consecutive positions, (B, Q, L)."""
        logs_BxQxL = jnp.log1p(elapsed(gaps_BxL, position_BxQ))
        last = self.bias_W.shape[0] - 1
        return self.bias_W[jnp.minimum(logs_BxQxL / 0.301, last).astype(jnp.int32)]


def elapsed(gaps_BxL: Array, position_BxQ: Array) -> Array:
    """Return the time from every event to those at consecutive positions, (B, Q, L), in units.

    The time to an earlier event is 0. Times are sums of the gaps between events, because the
    difference of two large float32 times would be inexact.
    """
    units_BxL = jnp.expm1(gaps_BxL)
    key_L = jnp.arange(gaps_BxL.shape[-1])
    first_Bx1 = position_BxQ[..., :1]
    # The time from each key to the first query, and then from that to the other queries.
    after_BxL = jnp.where((key_L > 0) & (key_L <= first_Bx1), units_BxL, 0)
    after_BxL = jnp.roll(after_BxL, -1, axis=-1)
    to_first_BxL = jax.lax.cumsum(after_BxL, axis=after_BxL.ndim - 1, reverse=True)
    query_BxQx1 = position_BxQ[..., None]
    own_BxQ = jnp.take_along_axis(
        units_BxL,
        jnp.broadcast_to(position_BxQ, (*units_BxL.shape[:-1], position_BxQ.shape[-1])),
        -1,
    )
    on_BxQxL = (query_BxQx1 > first_Bx1[..., None]) & (key_L < query_BxQx1)
    on_BxQxL = jnp.cumsum(jnp.where(on_BxQxL, own_BxQ[..., None], 0), axis=-2)
    return to_first_BxL[..., None, :] + on_BxQxL


class CachedAttention(nnx.Module):
    """Attention of ``heads`` with a cache of keys and values.

    A subclass defines ``keys_and_values`` and ``at_newest``.
    """

    heads: int
    norm: nnx.LayerNorm
    keys_and_values: Callable[[Array], tuple[Array, Array]]  # (..., D) -> (..., H, D / H) each
    # (cache, its input, position, dropout keys, gaps) -> the output at the newest position, (B, D)
    at_newest: Callable[..., Array]

    def readout(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None, dropout_keys: Keys = None
    ) -> Array:
        """Return the output at the last item only, (B, D), which attends to all items."""
        last_B = lengths_B - 1
        cache = KeyValueCache.of_all(*self.keys_and_values(x_BxLxD))
        return self.at_newest(cache, at_position(x_BxLxD, last_B), last_B, dropout_keys, gaps_BxL)

    def step(
        self, cache: KeyValueCache, x_BxD: Array, position_B: Array, gaps_BxL: Gaps = None
    ) -> tuple[KeyValueCache, Array]:
        """Take in the next position of row b, position[b]; return the cache and the output, (B, D).

        The output equals that of ``readout`` for causal attention only.
        """
        cache = cache.put(position_B, *self.keys_and_values(x_BxD))
        return cache, self.at_newest(cache, x_BxD, position_B, None, gaps_BxL)

    def start(self, batch: int, max_len: int, dtype: DTypeLike) -> KeyValueCache:
        """Return the cache before the first position."""
        shape = (batch, self.heads, max_len, self.norm.num_features // self.heads)
        # Two arrays, not one twice: both are changed in place.
        return KeyValueCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def by_head(self, x: Array) -> Array:
        """Return vectors (..., D) as (..., H, D / H)."""
        return x.reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads)


class SelfAttention(CachedAttention):
    """``LayerNorm(dropout(out(softmax(q k^T / sqrt(D / heads)) v)) + x)``.

    With ``causal``, a position does not attend to later ones. Only then, a ``TimeBias`` can be
    added to the scores (``time_gaps``).
    """

    def __init__(
        self,
        d_model: int,
        *,
        heads: int,
        causal: bool,
        dropout: float,
        time_gaps: bool = False,
        kernel_init: nnx.Initializer = normal,
        rngs: nnx.Rngs,
    ):
        check_heads(heads, d_model)
        self.heads, self.causal, self.dropout = heads, causal, dropout
        dense: dict[str, Any] = {"kernel_init": kernel_init, "rngs": rngs}
        self.query = Linear(d_model, d_model, **dense)
        self.key = Linear(d_model, d_model, **dense)
        self.value = Linear(d_model, d_model, **dense)
        self.out = Linear(d_model, d_model, **dense)
        self.norm = LayerNorm(d_model, rngs=rngs)
        self.time_bias = TimeBias() if time_gaps else None

    def __call__(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None, dropout_keys: Keys = None
    ) -> Array:
        """Return the output at every position, (B, L, D)."""
        read_BxLxD = self.read(x_BxLxD)
        linear = (self.query, self.key, self.value)
        q, k, v = (self.by_head(one(read_BxLxD)) for one in linear)
        # The softmax of ``jax.nn.dot_product_attention`` is in float32, also for float64 inputs.
        if blocks_are_better(x_BxLxD.shape[1]) or x_BxLxD.dtype == jnp.float64:
            q_BxHxLxK, cache = jnp.swapaxes(q, 1, 2), KeyValueCache.of_all(k, v)
            q_BxHxLxK *= q.shape[-1] ** -0.5
            rows = (lengths_B, gaps_BxL)
            y_BxHxLxK = attend_in_blocks(q_BxHxLxK, *cache, rows, self.weights, causal=self.causal)
            y_BxLxHxK = jnp.swapaxes(y_BxHxLxK, 1, 2)
        else:
            bias_Bx1xLxL = None
            if gaps_BxL is not None and self.time_bias is not None:
                positions_1xL = jnp.arange(x_BxLxD.shape[1])[None]
                bias_Bx1xLxL = self.time_bias(gaps_BxL, positions_1xL)[:, None].astype(q.dtype)
            y_BxLxHxK = jax.nn.dot_product_attention(
                q,
                k,
                v,
                bias_Bx1xLxL,
                is_causal=self.causal,
                key_value_seq_lengths=jnp.asarray(lengths_B, jnp.int32),
            )
        return self._with_residual(y_BxLxHxK, x_BxLxD, dropout_keys)

    def at_newest(
        self, cache: KeyValueCache, x_BxD: Array, position_B: Array, keys: Keys, gaps_BxL: Gaps
    ) -> Array:
        """Return the output at the newest position, whose input is x.

        On a CPU, it takes a twentieth of the time of ``jax.nn.dot_product_attention`` with one
        query.
        """
        q_BxHxK = self.by_head(self.query(self.read(x_BxD)))
        score_BxHxL = jnp.einsum(
            "bhk,bhlk->bhl",
            q_BxHxK * q_BxHxK.shape[-1] ** -0.5,
            cache.key_BxHxLxK,
            preferred_element_type=jnp.promote_types(x_BxD.dtype, jnp.float32),
        )
        if gaps_BxL is not None and self.time_bias is not None:
            score_BxHxL += self.time_bias(gaps_BxL, position_B[:, None])
        seen_Bx1xL = mask(position_B + 1, score_BxHxL.shape[-1])[:, None]
        weight_BxHxL = jax.nn.softmax(jnp.where(seen_Bx1xL, score_BxHxL, -jnp.inf), axis=-1)
        y_BxHxK = jnp.einsum("bhl,bhlk->bhk", weight_BxHxL.astype(x_BxD.dtype), cache.value_BxHxLxK)
        return self._with_residual(y_BxHxK, x_BxD, keys)

    def weights(self, score_HxQxS: Array, position_Q: Array, row: tuple[Array, Gaps]) -> Array:
        """Return a block's weights from its scores, and from the row's length and gaps."""
        length, gaps_L = row
        if gaps_L is not None and self.time_bias is not None:
            score_HxQxS += self.time_bias(gaps_L, position_Q)[:, : score_HxQxS.shape[2]]
        key_S = jnp.arange(score_HxQxS.shape[2])
        see_QxS = key_S < length
        if self.causal:
            see_QxS &= key_S <= position_Q[:, None]
        return jax.nn.softmax(jnp.where(see_QxS, score_HxQxS, -jnp.inf), axis=-1)

    def keys_and_values(self, x: Array) -> tuple[Array, Array]:
        """Return K and V of inputs x (..., D), each (..., H, D / H)."""
        read = self.read(x)
        return self.by_head(self.key(read)), self.by_head(self.value(read))

    def _with_residual(self, y: Array, x: Array, keys: Keys) -> Array:
        return self.joined(dropout(self.out(y.reshape(x.shape)), self.dropout, keys), x)

    def read(self, x: Array) -> Array:
        """Return the input of the linear maps to queries, keys and values."""
        return x

    def joined(self, y: Array, x: Array) -> Array:
        """Return the layer's output from the output of attention and the layer's input."""
        return self.norm(y + x)


def check_heads(heads: int, d_model: int) -> None:
    """Raise ``UserError`` if ``heads`` does not divide ``d_model``."""
    if d_model % heads:
        raise UserError(f"--heads {heads} does not divide --d-model {d_model}; change one of them")


def blocks_are_better(queries: int) -> bool:
    """Return whether blocks are faster for this number of queries, on this platform."""
    return queries > _LEAST_QUERIES and jax.default_backend() == "cpu"


def attend_in_blocks(
    query_BxHxLxK: Array,
    key_BxHxLxK: Array,
    value_BxHxLxK: Array,
    of_rows: Any,
    weigh: Weigh,
    *,
    causal: bool,
) -> Array:
    """Return ``weigh(q k^T) v`` at every position, (B, H, L, K); queries must be scaled.

    ``weigh`` returns the weights of a block from its scores, which are float32 (float64 if the
    queries are), and from the row of ``of_rows``, a tree of arrays (B, ...). With ``causal``,
    blocks of keys after the queries are skipped.
    """

    @jax.checkpoint
    def row(query_HxLxK: Array, key_HxLxK: Array, value_HxLxK: Array, brings: Any) -> Array:
        positions = query_HxLxK.shape[1]
        exact = jnp.promote_types(query_HxLxK.dtype, jnp.float32)
        block = max(_LEAST_BLOCK, -(-positions // _MOST_BLOCKS))
        found = []
        for first in range(0, positions, block):
            stop = min(first + block, positions)
            seen = stop if causal else positions
            score_HxQxS = jnp.einsum(
                "hqk,hsk->hqs",
                query_HxLxK[:, first:stop],
                key_HxLxK[:, :seen],
                preferred_element_type=exact,
            )
            weight_HxQxS = weigh(score_HxQxS, jnp.arange(first, stop), brings)
            found.append(weight_HxQxS.astype(value_HxLxK.dtype) @ value_HxLxK[:, :seen])
        return jnp.concatenate(found, axis=1)

    rows = (query_BxHxLxK, key_BxHxLxK, value_BxHxLxK, of_rows)
    return jax.lax.map(lambda one: row(*one), rows)
