"""The transformer that SASRec and BERT4Rec share, as RecBole builds it.

RecBole drops attention probabilities too. ``jax.nn.dot_product_attention``, which has fused kernels
on accelerators, cannot, so only the layers' outputs are dropped here.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.dropout import split_keys
from echojax.models.feed_forward import FeedForward
from echojax.models.position_embedding import PositionEmbedding
from echojax.models.self_attention import KeyValueCache, SelfAttention


class TransformerLayer(nnx.Module):
    """Self-attention and a feed-forward network; arguments as for ``SelfAttention``."""

    def __init__(self, d_model: int, *, heads: int, causal: bool, dropout: float, rngs: nnx.Rngs):
        self.attention = SelfAttention(
            d_model, heads=heads, causal=causal, dropout=dropout, rngs=rngs
        )
        self.ffn = FeedForward(d_model, dropout=dropout, inner_dropout=0.0, rngs=rngs)

    def __call__(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the layer's output at every position, (B, L, D)."""
        keys = split_keys(dropout_keys, 2)
        y_BxLxD = self.attention(x_BxLxD, lengths_B, dropout_keys=keys[0])
        return self.ffn(y_BxLxD, dropout_keys=keys[1])

    def readout(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the layer's output at the last item alone, (B, D)."""
        keys = split_keys(dropout_keys, 2)
        y_BxD = self.attention.readout(x_BxLxD, lengths_B, dropout_keys=keys[0])
        return self.ffn(y_BxD, dropout_keys=keys[1])

    def step(
        self, cache: KeyValueCache, x_BxD: jax.Array, position_B: jax.Array
    ) -> tuple[KeyValueCache, jax.Array]:
        """Take in one more position; see ``SelfAttention.step``."""
        cache, y_BxD = self.attention.step(cache, x_BxD, position_B)
        return cache, self.ffn(y_BxD)


class Transformer(nnx.Module):
    """Positions -> [self-attention -> feed-forward] x layers.

    Args:
        d_model: D.
        layers: how many layers, at least 1.
        heads: attention heads; must divide ``d_model``.
        causal: whether a position sees none behind it.
        dropout: rate, everywhere but on attention probabilities.
        max_len: how many positions there are.
        rngs: streams of random keys for the initial parameters.
    """

    def __init__(
        self,
        d_model: int,
        *,
        layers: int,
        heads: int,
        causal: bool,
        dropout: float,
        max_len: int,
        rngs: nnx.Rngs,
    ):
        self.positions = PositionEmbedding(max_len, d_model, dropout=dropout, rngs=rngs)
        shared: dict[str, Any] = {"heads": heads, "causal": causal, "dropout": dropout}
        self.layers = nnx.List(
            [TransformerLayer(d_model, **shared, rngs=rngs) for _ in range(layers)]
        )

    def __call__(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the output at every position, (B, L, D); past the lengths it means nothing."""
        lengths_B = jnp.asarray(lengths_B, jnp.int32)
        x_BxLxD, last = self._below_last(x_BxLxD, lengths_B, dropout_keys)
        return self.layers[-1](x_BxLxD, lengths_B, dropout_keys=last)

    def readout(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the output at position ``lengths - 1``, (B, D); only that of the last layer."""
        lengths_B = jnp.asarray(lengths_B, jnp.int32)
        x_BxLxD, last = self._below_last(x_BxLxD, lengths_B, dropout_keys)
        return self.layers[-1].readout(x_BxLxD, lengths_B, dropout_keys=last)

    def start(self, batch: int) -> list[KeyValueCache]:
        """Return each layer's cache before the first position."""
        max_len = self.positions.position_LxD[...].shape[0]
        return [layer.attention.start(batch, max_len) for layer in self.layers]

    def step(
        self, caches: list[KeyValueCache], x_BxD: jax.Array, position_B: jax.Array
    ) -> tuple[list[KeyValueCache], jax.Array]:
        """Take in row b's next position, position[b]; return the output there, (B, D).

        Only causal attention gives what ``readout`` would.
        """
        x_BxD, behind = self.positions.at(x_BxD, position_B), []
        for layer, cache in zip(self.layers, caches, strict=True):
            cache, x_BxD = layer.step(cache, x_BxD, position_B)
            behind.append(cache)
        return behind, x_BxD

    def _below_last(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, dropout_keys: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Return what the last layer reads, and its keys."""
        keys = split_keys(dropout_keys, len(self.layers) + 1)
        x_BxLxD = self.positions(x_BxLxD, dropout_keys=keys[0])
        for layer, key in zip(self.layers[:-1], keys[1:-1], strict=True):
            x_BxLxD = layer(x_BxLxD, lengths_B, dropout_keys=key)
        return x_BxLxD, keys[-1]
