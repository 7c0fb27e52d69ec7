"""SASRec (arXiv 1808.09781): causal self-attention over the history."""

from flax import nnx
from jax import Array

from echojax.models.attention import KeyValueCache, Transformer
from echojax.models.base import CausalModel
from echojax.models.layers import Keys


class SASRec(CausalModel):
    """Embedding -> positions -> [causal self-attention -> feed-forward] x layers.

    It is RecBole's variant, which the published numbers with a full softmax come from: layer
    normalisation after each residual, GELU, four times as wide inside. (The paper normalises
    before, with ReLU and as wide inside as out, and trains on one negative a position.) The oldest
    item shown is at position 0. Attention probabilities are not dropped; see
    ``echojax.models.attention``.
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

    def read_all(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return one vector a position, (B, L, D); see ``CausalModel.read_all``."""
        return self.transformer(x_BxLxD, lengths_B, dropout_keys=dropout_keys)

    def read_out(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return one vector a history, (B, D); of the last layer only its position is computed."""
        return self.transformer.readout(x_BxLxD, lengths_B, dropout_keys=dropout_keys)

    def start(self, batch: int) -> list[KeyValueCache]:
        """Return each layer's keys and values before the first event, with room for ``max_len``."""
        return self.transformer.start(batch)

    def step(
        self, caches: list[KeyValueCache], item_B: Array, position_B: Array
    ) -> tuple[list[KeyValueCache], Array]:
        """Take in an item at row b's next position; return the vector after it, (B, D)."""
        x_BxD = self.lookup_one(item_B)
        return self.transformer.step(caches, x_BxD, position_B)
