"""GRU4Rec (arXiv 1511.06939), in the form of RecBole, which others compare with.

Unlike in RecBole, the recurrent layers have biases, and the last map has Xavier's initial values.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from echojax.models.base import CausalModel
from echojax.models.gru import GRU
from echojax.models.layers import Keys, Linear, dropout
from echojax.models.positions import at_position


class GRU4Rec(CausalModel):
    """Embedding -> recurrent layers -> linear map back to the items' d_model."""

    def __init__(
        self,
        num_items: int,
        *,
        d_model: int = 64,
        hidden_size: int = 128,
        layers: int = 1,
        dropout: float = 0.3,
        max_len: int = 50,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        initial = nnx.initializers.xavier_normal()
        self.item_embedding.set_value(initial(rngs.params(), (num_items, d_model)))
        self.dropout = dropout
        inputs = [d_model] + [hidden_size] * (layers - 1)
        self.layers = nnx.List([GRU(size, hidden_size, rngs=rngs) for size in inputs])
        self.dense = Linear(
            hidden_size, d_model, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs
        )

    def read_all(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return one vector a position, (B, L, D); see ``CausalModel.read_all``."""
        return self.dense(self._states(x_BxLxD, dropout_keys))

    def read_out(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the vector at the last item, (B, D); the dense map is computed there only."""
        states_BxLxH = self._states(x_BxLxD, dropout_keys)
        return self.dense(at_position(states_BxLxH, lengths_B - 1))

    def start(self, batch: int) -> list[Array]:
        """Return each layer's state before the first event, (B, H)."""
        sizes = [layer.h_kernel_Hx3H[...].shape[0] for layer in self.layers]
        return [jnp.zeros((batch, size), self.item_embedding[...].dtype) for size in sizes]

    def step(self, states: list[Array], item_B: Array) -> tuple[list[Array], Array]:
        """Take in one more item; return the states and the vector after it, (B, D)."""
        x_BxH, after = self.lookup_one(item_B), []
        for layer, h_BxH in zip(self.layers, states, strict=True):
            x_BxH = layer.step(h_BxH, x_BxH)
            after.append(x_BxH)
        return after, self.dense(x_BxH)

    def _states(self, x_BxLxD: Array, keys: Keys) -> Array:
        x_BxLxH = dropout(x_BxLxD, self.dropout, keys)
        for layer in self.layers:
            x_BxLxH = layer(x_BxLxH)
        return x_BxLxH
