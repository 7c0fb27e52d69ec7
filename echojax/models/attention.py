"""The transformer that SASRec and BERT4Rec share, as RecBole builds it.

RecBole drops attention probabilities too. ``jax.nn.dot_product_attention``, which has fused kernels
on accelerators, cannot, so only the layers' outputs are dropped here.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.errors import UserError
from echojax.models.dropout import dropout, split_keys
from echojax.models.feed_forward import FeedForward
from echojax.models.initializers import normal
from echojax.models.layer_norm import layer_norm
from echojax.models.position_embedding import PositionEmbedding
from echojax.models.positions import at_position


class SelfAttention(nnx.Module):
    """``LayerNorm(dropout(out(softmax(q k^T / sqrt(D / heads)) v)) + x)``.

    Args:
        width: D.
        heads: how many; must divide ``width``.
        causal: whether a position sees none behind it.
        dropout: rate.
        rngs: streams of random keys for the initial parameters.
    """

    def __init__(self, width: int, *, heads: int, causal: bool, dropout: float, rngs: nnx.Rngs):
        check_heads(heads, width)
        self.heads, self.causal, self.dropout = heads, causal, dropout
        dense: dict[str, Any] = {"kernel_init": normal, "rngs": rngs}
        self.query = nnx.Linear(width, width, **dense)
        self.key = nnx.Linear(width, width, **dense)
        self.value = nnx.Linear(width, width, **dense)
        self.out = nnx.Linear(width, width, **dense)
        self.norm = layer_norm(width, rngs=rngs)

    def __call__(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the output at every position, (B, L, D)."""
        return self._attend(x_BxLxD, x_BxLxD, lengths_B, self.causal, dropout_keys)

    def readout(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the output at the last item alone, (B, D): it sees all items in either case."""
        last_Bx1xD = at_position(x_BxLxD, lengths_B - 1)[:, None]
        return self._attend(last_Bx1xD, x_BxLxD, lengths_B, False, dropout_keys)[:, 0]

    def _attend(
        self,
        x_BxQxD: jax.Array,
        context_BxLxD: jax.Array,
        lengths_B: jax.Array,
        causal: bool,
        keys: jax.Array | None,
    ) -> jax.Array:
        def split(x: jax.Array) -> jax.Array:
            return x.reshape(*x.shape[:2], self.heads, -1)

        y_BxQxHxK = jax.nn.dot_product_attention(
            split(self.query(x_BxQxD)),
            split(self.key(context_BxLxD)),
            split(self.value(context_BxLxD)),
            is_causal=causal,
            key_value_seq_lengths=lengths_B,
        )
        y_BxQxD = self.out(y_BxQxHxK.reshape(x_BxQxD.shape))
        return self.norm(dropout(y_BxQxD, self.dropout, keys) + x_BxQxD)


class TransformerLayer(nnx.Module):
    """Self-attention and a feed-forward network; arguments as for ``SelfAttention``."""

    def __init__(self, width: int, *, heads: int, causal: bool, dropout: float, rngs: nnx.Rngs):
        self.attention = SelfAttention(
            width, heads=heads, causal=causal, dropout=dropout, rngs=rngs
        )
        self.ffn = FeedForward(width, dropout=dropout, inner_dropout=0.0, rngs=rngs)

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


class Transformer(nnx.Module):
    """Positions -> [self-attention -> feed-forward] x layers.

    Args:
        width: D.
        layers: how many layers, at least 1.
        heads: attention heads; must divide ``width``.
        causal: whether a position sees none behind it.
        dropout: rate, everywhere but on attention probabilities.
        max_len: how many positions there are.
        rngs: streams of random keys for the initial parameters.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int,
        heads: int,
        causal: bool,
        dropout: float,
        max_len: int,
        rngs: nnx.Rngs,
    ):
        self.positions = PositionEmbedding(max_len, width, dropout=dropout, rngs=rngs)
        shared: dict[str, Any] = {"heads": heads, "causal": causal, "dropout": dropout}
        self.layers = nnx.List(
            [TransformerLayer(width, **shared, rngs=rngs) for _ in range(layers)]
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

    def _below_last(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, dropout_keys: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Return what the last layer reads, and its keys."""
        keys = split_keys(dropout_keys, len(self.layers) + 1)
        x_BxLxD = self.positions(x_BxLxD, dropout_keys=keys[0])
        for layer, key in zip(self.layers[:-1], keys[1:-1], strict=True):
            x_BxLxD = layer(x_BxLxD, lengths_B, dropout_keys=key)
        return x_BxLxD, keys[-1]


def check_heads(heads: int, width: int) -> None:
    """Raise ``UserError`` where ``heads`` does not divide ``width``."""
    if width % heads:
        raise UserError(f"--heads {heads} does not divide --width {width}; change one of them")
