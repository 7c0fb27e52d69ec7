"""The transformer that SASRec and BERT4Rec share, as RecBole builds it."""

from typing import Any

from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from echojax.models.attention import KeyValueCache, SelfAttention
from echojax.models.base import LayeredModel
from echojax.models.layers import FeedForward, Gaps, Keys, PositionEmbedding, split_keys


class TransformerLayer(nnx.Module):
    """Self-attention and a feed-forward network; arguments as for ``SelfAttention``."""

    def __init__(self, d_model: int, *, dropout: float, rngs: nnx.Rngs, **options: Any):
        self.attention = SelfAttention(d_model, dropout=dropout, **options, rngs=rngs)
        self.ffn = FeedForward(d_model, dropout=dropout, rngs=rngs)

    def __call__(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None, dropout_keys: Keys = None
    ) -> Array:
        """Return the layer's output at every position, (B, L, D)."""
        keys = split_keys(dropout_keys, 2)
        y_BxLxD = self.attention(x_BxLxD, lengths_B, gaps_BxL=gaps_BxL, dropout_keys=keys[0])
        return self.ffn(y_BxLxD, dropout_keys=keys[1])

    def readout(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None, dropout_keys: Keys = None
    ) -> Array:
        """Return the layer's output at the last item only, (B, D)."""
        keys = split_keys(dropout_keys, 2)
        y_BxD = self.attention.readout(x_BxLxD, lengths_B, gaps_BxL=gaps_BxL, dropout_keys=keys[0])
        return self.ffn(y_BxD, dropout_keys=keys[1])

    def start(self, batch: int, max_len: int, dtype: DTypeLike) -> KeyValueCache:
        """Return the cache before the first position."""
        return self.attention.start(batch, max_len, dtype)

    def step(
        self, cache: KeyValueCache, x_BxD: Array, position_B: Array, gaps_BxL: Gaps = None
    ) -> tuple[KeyValueCache, Array]:
        """Take in the next position of row b, position[b]; see ``SelfAttention.step``."""
        cache, y_BxD = self.attention.step(cache, x_BxD, position_B, gaps_BxL)
        return cache, self.ffn(y_BxD)


class Transformer(nnx.Module):
    """Position embeddings and layers; arguments as for ``SelfAttention``.

    ``dropout`` is applied everywhere except to attention probabilities.
    """

    def __init__(self, d_model: int, *, layers: int, max_len: int, rngs: nnx.Rngs, **options: Any):
        dropout = options["dropout"]
        self.positions = PositionEmbedding(max_len, d_model, dropout=dropout, rngs=rngs)
        self.layers = nnx.List(
            [TransformerLayer(d_model, **options, rngs=rngs) for _ in range(layers)]
        )


class TransformerModel(LayeredModel):
    """A model whose positions and layers are those of its ``transformer``."""

    transformer: Transformer

    @property
    def layers(self) -> nnx.List:
        """The transformer's layers."""
        return self.transformer.layers

    def embed(self, x: Array, keys: Keys, position_B: Array | None = None) -> Array:
        """Return the items' vectors with those of their positions; see ``LayeredModel.embed``."""
        return self.transformer.positions(x, position_B, dropout_keys=keys)
