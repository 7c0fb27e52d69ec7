"""BERT4Rec (arXiv 1904.06690): hidden items predicted from the items on both sides."""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from echojax.models.layers import Keys, LayerNorm, Linear, normal
from echojax.models.transformer import Transformer, TransformerModel


class BERT4Rec(TransformerModel):
    """Embedding -> positions -> [self-attention -> feed-forward] x layers -> output head.

    Scores are ``LayerNorm(gelu(dense(x))) . item + bias`` (section 3.5, equation 7). The bias is in
    an additional column, so that the vectors of histories and items have D + 1 numbers. A hidden
    item is replaced by a vector of its own, which belongs to no item. Attention probabilities are
    not dropped; see ``echojax.models.attention``. An epoch shows each window of a history once
    (``echojax.training.objectives``); RecBole's shows every prefix.
    """

    objectives = ("cloze", "prefixes")
    not_causal = "its attention looks both ways, so every event changes every position"

    def __init__(
        self,
        num_items: int,
        *,
        d_model: int = 64,
        layers: int = 2,
        heads: int = 2,
        mask_rate: float = 0.2,
        dropout: float = 0.2,
        max_len: int = 50,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        self.mask_rate = mask_rate
        self.hidden_D = nnx.Param(normal(rngs.params(), (d_model,)))
        self.transformer = Transformer(
            d_model,
            layers=layers,
            heads=heads,
            causal=False,
            dropout=dropout,
            max_len=max_len,
            rngs=rngs,
        )
        self.dense = Linear(d_model, d_model, kernel_init=normal, rngs=rngs)
        self.norm = LayerNorm(d_model, rngs=rngs)
        self.item_bias_V = nnx.Param(jnp.zeros(num_items), per_item=True, keep_float32=True)

    def arranged(self, item_ids_BxL: Array, lengths_B: Array) -> tuple[Array, Array]:
        """Return the histories with a place for the hidden item at the end, and their lengths.

        If a history fills the window, its oldest item is dropped.
        """
        items_BxL = jnp.pad(item_ids_BxL, ((0, 0), (0, 1)))
        if items_BxL.shape[1] <= self.max_len:
            return items_BxL, lengths_B + 1
        full_B = lengths_B == self.max_len
        newest_BxL = jnp.where(full_B[:, None], items_BxL[:, 1:], items_BxL[:, :-1])
        return newest_BxL, jnp.minimum(lengths_B + 1, self.max_len)

    def read_out(
        self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None, **times: Array
    ) -> Array:
        """Return the vector of a hidden item after the history, (B, D + 1)."""
        last_BxL = jnp.arange(x_BxLxD.shape[1]) == lengths_B[:, None] - 1
        x_BxLxD = self._hide(x_BxLxD, last_BxL)
        return super().read_out(x_BxLxD, lengths_B, dropout_keys=dropout_keys, **times)

    def read_hidden(
        self, x_BxLxD: Array, lengths_B: Array, hidden_BxL: Array, *, dropout_keys: Keys = None
    ) -> Array:
        """Return one vector per position, (B, L, D + 1), while some items are hidden.

        ``hidden_BxL`` are booleans: the vectors do not depend on these items. Lengths count them.
        """
        x_BxLxD = self._hide(x_BxLxD, hidden_BxL)
        return self.read_all(x_BxLxD, lengths_B, dropout_keys=dropout_keys)

    def output_embeddings(self, item_VxD: Array | None = None) -> Array:
        """Return the items' vectors and, in the last column, their biases, (V, D + 1)."""
        return jnp.hstack([super().output_embeddings(item_VxD), self.item_bias_V[...][:, None]])

    def head(self, x: Array) -> Array:
        """Return the vectors of the output head, with a 1 appended for the items' biases."""
        y = self.norm(nnx.gelu(self.dense(x), approximate=False))
        return jnp.concatenate([y, jnp.ones_like(y[..., :1])], axis=-1)

    def _hide(self, x_BxLxD: Array, hidden_BxL: Array) -> Array:
        return jnp.where(hidden_BxL[..., None], self.hidden_D[...], x_BxLxD)
