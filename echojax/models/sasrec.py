"""SASRec (arXiv 1808.09781): causal self-attention over the history."""

import jax
from flax import nnx

from echojax.models.attention import Transformer
from echojax.models.base import CausalModel
from echojax.models.self_attention import KeyValueCache


class SASRec(CausalModel):
    """Embedding -> positions -> [causal self-attention -> feed-forward] x layers.

    It is RecBole's variant, which the published numbers with a full softmax come from: layer
    normalisation behind each residual, GELU, four times as wide inside. (The paper normalises
    before, with ReLU and as wide inside as out, and trains on one negative a position.) The oldest
    item shown is at position 0. Attention probabilities are not dropped; see
    ``echojax.models.attention``.

    Args:
        num_items: V, with padding as item 0.
        d_model: D.
        layers: how many layers.
        heads: attention heads; must divide ``d_model``.
        dropout: rate, everywhere but on attention probabilities.
        max_len: L, how many of the newest items are read.
        rngs: streams of random keys for the initial parameters.
    """

    def __init__(
        self,
        num_items: int,
        *,
        d_model: int = 64,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.5,
        max_len: int = 50,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        self.transformer = Transformer(
            d_model,
            layers=layers,
            heads=heads,
            causal=True,
            dropout=dropout,
            max_len=max_len,
            rngs=rngs,
        )

    def encode_all(
        self,
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Return one vector a position, (B, L, D); see ``CausalModel.encode_all``."""
        return self.transformer(self.lookup(item_ids_BxL), lengths_B, dropout_keys=dropout_keys)

    def encode(
        self,
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Return one vector a history, (B, D); of the last layer only its position is computed."""
        x_BxLxD = self.lookup(item_ids_BxL)
        return self.transformer.readout(x_BxLxD, lengths_B, dropout_keys=dropout_keys)

    def start(self, batch: int) -> list[KeyValueCache]:
        """Return each layer's keys and values before the first event, with room for ``max_len``."""
        return self.transformer.start(batch)

    def step(
        self, caches: list[KeyValueCache], item_B: jax.Array, position_B: jax.Array
    ) -> tuple[list[KeyValueCache], jax.Array]:
        """Take in an item at row b's next position; return the vector behind it, (B, D)."""
        x_BxD = self.lookup(item_B[:, None])[:, 0]
        return self.transformer.step(caches, x_BxD, position_B)
