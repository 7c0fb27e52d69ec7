"""The gated linear unit (EchoMamba4Rec section 3.4)."""

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.dropout import dropout
from echojax.models.initializers import normal
from echojax.models.layer_norm import layer_norm
from echojax.models.sequence_shards import NO_AXIS


class GatedLinearUnit(nnx.Module):
    """``LayerNorm(dropout(fc2(value * sigmoid(gate)) + x))`` with ``[value, gate] = fc1(x)``."""

    def __init__(self, d_model: int, *, dropout: float, rngs: nnx.Rngs):
        self.dropout, self.time_axis = dropout, NO_AXIS
        self.fc1 = nnx.Linear(d_model, 2 * d_model, kernel_init=normal, rngs=rngs)
        self.fc2 = nnx.Linear(d_model, d_model, kernel_init=normal, rngs=rngs)
        self.norm = layer_norm(d_model, rngs=rngs)

    def __call__(self, x: jax.Array, *, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Return the same shape as ``x`` (..., D)."""
        value, gate = jnp.split(self.fc1(x), 2, axis=-1)
        return self.norm(
            dropout(
                self.fc2(value * nnx.sigmoid(gate)) + x, self.dropout, dropout_keys, self.time_axis
            )
        )
