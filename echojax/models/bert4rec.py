"""BERT4Rec (arXiv 1904.06690): hidden items told from what stands on both sides."""

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.attention import Transformer
from echojax.models.base import SequenceModel
from echojax.models.initializers import normal
from echojax.models.layer_norm import layer_norm


class BERT4Rec(SequenceModel):
    """Embedding -> positions -> [self-attention -> feed-forward] x layers -> output head.

    Scores are ``LayerNorm(gelu(dense(x))) . item + bias`` (section 3.5, equation 7). The bias is
    carried by one more column, so that encoded histories and the catalogue are D + 1 wide. What
    stands in a hidden item's place is a vector of its own and not an item. Attention probabilities
    are not dropped; see ``echojax.models.attention``. An epoch shows each stretch of a history once
    (``echojax.training.objectives``), where RecBole's shows every prefix of it.

    Args:
        num_items: V, with padding as item 0.
        d_model: D.
        layers: how many layers.
        heads: attention heads; must divide ``d_model``.
        mask_rate: share of a sequence's items that the cloze objective hides.
        dropout: rate, everywhere but on attention probabilities.
        max_len: L, how many of the newest items are read, the hidden one among them.
        rngs: streams of random keys for the initial parameters.
    """

    objectives = ("cloze", "prefixes")

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
        self.dense = nnx.Linear(d_model, d_model, kernel_init=normal, rngs=rngs)
        self.norm = layer_norm(d_model, rngs=rngs)
        self.item_bias_V = nnx.Param(jnp.zeros(num_items))

    def encode(
        self,
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Return what is known of a hidden item behind the history, (B, D + 1).

        Arguments as for ``SequenceModel.encode``. Where a history fills the window its oldest item
        makes room for the hidden one.
        """
        items_BxL, lengths_B = self._with_room(item_ids_BxL, jnp.asarray(lengths_B))
        hidden_BxL = jnp.arange(items_BxL.shape[1]) == lengths_B[:, None] - 1
        x_BxLxD = self._embed(items_BxL, hidden_BxL)
        return self._head(self.transformer.readout(x_BxLxD, lengths_B, dropout_keys=dropout_keys))

    def encode_hidden(
        self,
        items_BxL: jax.Array,
        lengths_B: jax.Array,
        hidden_BxL: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Return what is known of each position when some items are hidden, (B, L, D + 1).

        Args:
            items_BxL: item numbers 1..V-1 in time order, right padded with 0.
            lengths_B: items in each row, hidden ones included.
            hidden_BxL: booleans, which items no vector may tell.
            dropout_keys: a random key a row while training, (B,); ``None`` switches dropout off.
        """
        x_BxLxD = self._embed(items_BxL, hidden_BxL)
        return self._head(self.transformer(x_BxLxD, lengths_B, dropout_keys=dropout_keys))

    def catalogue(self) -> jax.Array:
        """Return the items' vectors and, in the last column, their biases, (V, D + 1)."""
        return jnp.hstack([self.item_embedding[...], self.item_bias_V[...][:, None]])

    def _with_room(
        self, item_ids_BxL: jax.Array, lengths_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the histories with a place behind their last item, and lengths that count it."""
        items_BxL = jnp.pad(jnp.asarray(item_ids_BxL), ((0, 0), (0, 1)))
        if items_BxL.shape[1] <= self.max_len:
            return items_BxL, lengths_B + 1
        full_B = lengths_B == self.max_len
        newest_BxL = jnp.where(full_B[:, None], items_BxL[:, 1:], items_BxL[:, :-1])
        return newest_BxL, jnp.minimum(lengths_B + 1, self.max_len)

    def _embed(self, items_BxL: jax.Array, hidden_BxL: jax.Array) -> jax.Array:
        return jnp.where(hidden_BxL[..., None], self.hidden_D[...], self.lookup(items_BxL))

    def _head(self, x: jax.Array) -> jax.Array:
        y = self.norm(nnx.gelu(self.dense(x), approximate=False))
        return jnp.concatenate([y, jnp.ones_like(y[..., :1])], axis=-1)
