"""What every neural recommender shares: the item table, its lookup and the scores."""

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.dropout import dropout
from echojax.models.initializers import normal


class SequenceModel(nnx.Module):
    """Embeds items and scores the catalogue; subclasses turn a history into one vector.

    Args:
        num_items: V, the catalogue with padding as item 0.
        width: D.
        max_len: L, how many of the newest items are read.
        dropout: rate behind the embedding.
    """

    def __init__(self, num_items: int, *, width: int, max_len: int, dropout: float, rngs: nnx.Rngs):
        self.max_len, self.dropout = max_len, dropout
        self.item_embedding = nnx.Param(normal(rngs.params(), (num_items, width)))
        self.norm = nnx.LayerNorm(width, epsilon=1e-12, use_fast_variance=False, rngs=rngs)

    def encode(
        self, item_ids_BxL: jax.Array, lengths_B: jax.Array, *, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Return one vector a history, (B, D).

        Args:
            item_ids_BxL: item numbers 1..V-1 in time order, right padded with 0. Any L up to
                ``max_len``.
            lengths_B: items in each row, at least 1.
            dropout_key: a random key while training; ``None`` switches dropout off.
        """
        raise NotImplementedError

    def scores(self, item_ids_BxL: jax.Array, lengths_B: jax.Array) -> jax.Array:
        """Return the logits of every item as the next one, (B, V); column 0 is padding."""
        return self.encode(item_ids_BxL, lengths_B) @ self.item_embedding[...].T

    def embed(self, item_ids_BxL: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Return LayerNorm(dropout(embedding)), (B, max_len, D)."""
        item_ids_BxL = jnp.asarray(item_ids_BxL)
        length = item_ids_BxL.shape[1]
        if length > self.max_len:
            raise ValueError(f"histories of {length} items, but max_len is {self.max_len}")
        item_ids_BxL = jnp.pad(item_ids_BxL, ((0, 0), (0, self.max_len - length)))
        x_BxLxD = self.item_embedding[item_ids_BxL]
        # Padding's row is read but never trained by the lookup (PyTorch's padding_idx).
        x_BxLxD = jnp.where((item_ids_BxL == 0)[..., None], jax.lax.stop_gradient(x_BxLxD), x_BxLxD)
        return self.norm(dropout(x_BxLxD, self.dropout, dropout_key))


def split_key(key: jax.Array | None, num: int) -> list[jax.Array | None]:
    """Split a dropout key; without a key there is nothing to split."""
    return [None] * num if key is None else list(jax.random.split(key, num))
