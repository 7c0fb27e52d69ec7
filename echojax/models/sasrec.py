"""SASRec (arXiv 1808.09781): causal self-attention over the history."""

from flax import nnx

from echojax.models.base import CausalModel
from echojax.models.transformer import Transformer, TransformerModel


class SASRec(TransformerModel, CausalModel):
    """Embedding -> positions -> [causal self-attention -> feed-forward] x layers.

    It is RecBole's variant, which the published numbers with a full softmax come from: layer
    normalisation after each residual, GELU, four times as wide inside. (The paper normalises
    before, with ReLU and as wide inside as out, and trains on one negative a position.) The oldest
    item shown is at position 0. Attention probabilities are not dropped; see
    ``echojax.models.attention``.
    """

    windowed = True

    def __init__(
        self,
        num_items: int,
        *,
        d_model: int = 64,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.5,
        max_len: int = 50,
        time_gaps: bool = False,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        self.time_gaps = time_gaps
        self.transformer = Transformer(
            d_model,
            layers=layers,
            heads=heads,
            causal=True,
            dropout=dropout,
            max_len=max_len,
            time_gaps=time_gaps,
            rngs=rngs,
        )
