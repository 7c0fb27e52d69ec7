"""HSTU (arXiv 2402.17152): gated attention without a softmax."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from echojax.models.attention import (
    CachedAttention,
    KeyValueCache,
    TimeBias,
    attend_in_blocks,
    blocks_are_better,
    check_heads,
)
from echojax.models.base import CausalModel, LayeredModel
from echojax.models.layers import Gaps, Keys, Linear, dropout, normal, uniform_within

_TEMPERATURE = 0.05  # of the cosine scores, in all of the authors' configurations


class HSTULayer(CachedAttention):
    """``f2(dropout(LN(A V) * U)) + x`` with ``U, V, Q, K = silu(f1(LN(x)))`` (equations 1 to 3).

    ``A = silu(Q K^T + bias) / max_len`` for earlier items and 0 for later ones. The bias depends on
    the distance between two positions and is the same for all heads; with ``time_gaps``, a bias of
    the time between them is added (``TimeBias``). As in the authors' code, both layer
    normalisations have no scale and no bias, and A is divided by the length of the window, not of
    the history. ``d_model`` is the size of each of U, V, Q and K, over all heads.
    """

    def __init__(
        self,
        d_model: int,
        *,
        heads: int,
        dropout: float,
        max_len: int,
        time_gaps: bool,
        rngs: nnx.Rngs,
    ):
        check_heads(heads, d_model)
        self.heads, self.dropout, self.max_len = heads, dropout, max_len
        self.norm = nnx.LayerNorm(
            d_model,
            epsilon=1e-6,
            use_fast_variance=False,
            use_scale=False,
            use_bias=False,
            rngs=rngs,
        )
        # f1 is in two halves: a read-out needs U and Q at one position, but V and K at all.
        f1: dict[str, Any] = {"use_bias": False, "kernel_init": normal, "rngs": rngs}
        self.f1_uq = Linear(d_model, 2 * d_model, **f1)
        self.f1_vk = Linear(d_model, 2 * d_model, **f1)
        self.f2 = Linear(
            d_model,
            d_model,
            kernel_init=nnx.initializers.xavier_uniform(),
            bias_init=uniform_within(d_model**-0.5),
            rngs=rngs,
        )
        self.bias_L = nnx.Param(normal(rngs.params(), (max_len,)))  # by distance into the past
        self.time_bias = TimeBias() if time_gaps else None

    def __call__(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None, dropout_keys: Keys = None
    ) -> Array:
        """Return the layer's output at every position, (B, L, D)."""
        positions_1xL = jnp.arange(x_BxLxD.shape[1])[None]
        cache = KeyValueCache.of_all(*self.keys_and_values(x_BxLxD))
        return self._attend(x_BxLxD, cache, positions_1xL, dropout_keys, gaps_BxL)

    def at_newest(
        self, cache: KeyValueCache, x_BxD: Array, position_B: Array, keys: Keys, gaps_BxL: Gaps
    ) -> Array:
        """Return the output at the newest position, whose input is x."""
        return self._attend(x_BxD[:, None], cache, position_B[:, None], keys, gaps_BxL)[:, 0]

    def _attend(
        self, x_BxQxD: Array, cache: KeyValueCache, positions_BxQ: Array, keys: Keys, gaps_BxL: Gaps
    ) -> Array:
        u_BxQxD, q_BxQxD = jnp.split(nnx.silu(self.f1_uq(self.norm(x_BxQxD))), 2, axis=-1)
        q_BxHxQxK = jnp.swapaxes(self.by_head(q_BxQxD), 1, 2)
        if blocks_are_better(q_BxHxQxK.shape[2]):  # all positions, of long rows
            av_BxHxQxK = attend_in_blocks(q_BxHxQxK, *cache, gaps_BxL, self._weights, causal=True)
        else:
            logits_BxHxQxL = jnp.einsum("bhqk,bhlk->bhql", q_BxHxQxK, cache.key_BxHxLxK)
            a_BxHxQxL = self._weights(logits_BxHxQxL, positions_BxQ, gaps_BxL)
            av_BxHxQxK = jnp.einsum("bhql,bhlk->bhqk", a_BxHxQxL, cache.value_BxHxLxK)
        av_BxQxD = jnp.swapaxes(av_BxHxQxK, 1, 2).reshape(x_BxQxD.shape)
        gated_BxQxD = self.norm(av_BxQxD) * u_BxQxD
        return self.f2(dropout(gated_BxQxD, self.dropout, keys)) + x_BxQxD

    def _weights(self, logits: Array, positions: Array, gaps: Array | None) -> Array:
        """Return A of logits (..., H, Q, L), the queries being at ``positions`` (..., Q)."""
        keys = logits.shape[-1]
        past = positions[..., None, :, None] - jnp.arange(keys)
        bias = self.bias_L[jnp.maximum(past, 0)]
        if gaps is not None and self.time_bias is not None:
            bias += self.time_bias(gaps, positions)[..., None, :, :keys]
        a = nnx.silu(logits + bias) / self.max_len
        return jnp.where(past >= 0, a, 0)

    def keys_and_values(self, x: Array) -> tuple[Array, Array]:
        """Return K and V of inputs x (..., D), each (..., H, D / H)."""
        v, k = jnp.split(nnx.silu(self.f1_vk(self.norm(x))), 2, axis=-1)
        return self.by_head(k), self.by_head(v)


class HSTU(LayeredModel, CausalModel):
    """Embedding -> positions -> [HSTU layer] x layers -> cosine with the items.

    Items are scaled by ``sqrt(D)`` before positions are added. Scores are cosines over a
    temperature of 0.05, as in the authors' code. The oldest item shown is at position 0.
    """

    windowed = True

    def __init__(
        self,
        num_items: int,
        *,
        d_model: int = 64,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.2,
        max_len: int = 50,
        time_gaps: bool = False,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        self.dropout, self.time_gaps = dropout, time_gaps
        initial = nnx.initializers.truncated_normal(d_model**-0.5)
        self.position_LxD = nnx.Param(initial(rngs.params(), (max_len, d_model)))
        shared: dict[str, Any] = {"heads": heads, "dropout": dropout, "max_len": max_len}
        shared["time_gaps"] = time_gaps
        self.layers = nnx.List([HSTULayer(d_model, **shared, rngs=rngs) for _ in range(layers)])

    def embed(self, x: Array, keys: Keys, position_B: Array | None = None) -> Array:
        """Return the items' vectors with those of their positions; see ``LayeredModel.embed``."""
        position_LxD = self.position_LxD[slice(x.shape[1]) if position_B is None else position_B]
        return dropout(x * x.shape[-1] ** 0.5 + position_LxD, self.dropout, keys)

    def head(self, x: Array) -> Array:
        """Return the vectors whose products with items of length 1 are the scores."""
        return _on_sphere(x) / _TEMPERATURE

    def output_embeddings(self, item_VxD: Array | None = None) -> Array:
        """Return the items' vectors, of length 1, (V, D)."""
        return _on_sphere(super().output_embeddings(item_VxD))


def _on_sphere(x: Array) -> Array:
    """Scale vectors along the last axis to length 1; below a length of 1e-6, by a constant."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))
