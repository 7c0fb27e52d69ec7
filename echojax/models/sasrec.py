"""SASRec (arXiv 1808.09781): causal self-attention over the history."""

from flax import nnx

from echojax.models.base import CausalModel
from echojax.models.transformer import Transformer, TransformerModel


class SASRec(TransformerModel, CausalModel):
    """Embedding -> positions -> [causal self-attention -> feed-forward] x layers.

    This is RecBole's variant, from which the published numbers with a full softmax come: layer
    normalisation after each residual, GELU, and 4 D inner channels. (The paper normalises before,
    with ReLU and D inner channels, and trains with one negative per position.) The oldest item is
    at position 0. Attention probabilities are not dropped; see ``echojax.models.attention``.
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
