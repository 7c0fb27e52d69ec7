"""The feed-forward network behind a mixing layer, with its residual and normalisation."""

import jax
from flax import nnx

from echojax.models.dropout import dropout, split_keys
from echojax.models.initializers import normal
from echojax.models.layer_norm import layer_norm
from echojax.models.sequence_shards import NO_AXIS


class FeedForward(nnx.Module):
    """``LayerNorm(dropout(w_2(dropout(gelu(w_1 x)))) + x)``, four times as wide inside.

    Args:
        d_model: D.
        dropout: rate behind the residual branch.
        inner_dropout: rate between the two linear maps (None: ``dropout``).
        rngs: streams of random keys for the initial parameters.
    """

    def __init__(
        self, d_model: int, *, dropout: float, inner_dropout: float | None = None, rngs: nnx.Rngs
    ):
        self.dropout, self.time_axis = dropout, NO_AXIS
        self.inner_dropout = dropout if inner_dropout is None else inner_dropout
        self.w_1 = nnx.Linear(d_model, 4 * d_model, kernel_init=normal, rngs=rngs)
        self.w_2 = nnx.Linear(4 * d_model, d_model, kernel_init=normal, rngs=rngs)
        self.norm = layer_norm(d_model, rngs=rngs)

    def __call__(self, x: jax.Array, *, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Return the same shape as ``x`` (B, ..., D)."""
        keys = split_keys(dropout_keys, 2)
        inner = nnx.gelu(self.w_1(x), approximate=False)
        inner = dropout(inner, self.inner_dropout, keys[0], self.time_axis)
        return self.norm(dropout(self.w_2(inner), self.dropout, keys[1], self.time_axis) + x)
