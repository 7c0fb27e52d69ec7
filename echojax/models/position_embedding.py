"""Learned position vectors, added to the items' and normalised."""

import jax
from flax import nnx

from echojax.models.dropout import dropout
from echojax.models.initializers import normal
from echojax.models.layer_norm import layer_norm


class PositionEmbedding(nnx.Module):
    """``dropout(LayerNorm(x_l + position_l))``.

    Args:
        max_len: how many positions there are.
        d_model: D.
        dropout: rate.
        rngs: streams of random keys for the initial parameters.
    """

    def __init__(self, max_len: int, d_model: int, *, dropout: float, rngs: nnx.Rngs):
        self.dropout = dropout
        self.position_LxD = nnx.Param(normal(rngs.params(), (max_len, d_model)))
        self.norm = layer_norm(d_model, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array, *, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Return the same shape as ``x``, whose first column is at position 0."""
        y_BxLxD = self.norm(x_BxLxD + self.position_LxD[: x_BxLxD.shape[1]])
        return dropout(y_BxLxD, self.dropout, dropout_keys)

    def at(self, x_BxD: jax.Array, position_B: jax.Array) -> jax.Array:
        """Return the same for one position a row, (B, D)."""
        return self.norm(x_BxD + self.position_LxD[position_B])
