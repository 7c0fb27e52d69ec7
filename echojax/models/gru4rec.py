"""GRU4Rec (arXiv 1511.06939), in the form that its peers compare with (RecBole's).

Beside RecBole's, the recurrent layers have biases and the last map starts with Xavier's values.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.base import CausalModel
from echojax.models.dropout import dropout
from echojax.models.gru import GRU
from echojax.models.positions import at_position


class GRU4Rec(CausalModel):
    """Embedding -> recurrent layers -> linear map back to the items' d_model.

    Args:
        num_items: V, with padding as item 0.
        d_model: D.
        hidden_size: H, size of the recurrent state.
        layers: recurrent layers.
        dropout: rate behind the embedding.
        max_len: L, how many of the newest items are read.
        rngs: streams of random keys for the initial parameters.
    """

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
        self.dense = nnx.Linear(
            hidden_size, d_model, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs
        )

    def encode_all(
        self,
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Return one vector a position, (B, L, D); see ``CausalModel.encode_all``."""
        return self.dense(self._states(item_ids_BxL, dropout_keys))

    def encode(
        self,
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Return the vector at the last item, (B, D), of which alone the dense map is computed."""
        states_BxLxH = self._states(item_ids_BxL, dropout_keys)
        return self.dense(at_position(states_BxLxH, jnp.asarray(lengths_B) - 1))

    def start(self, batch: int) -> list[jax.Array]:
        """Return each layer's state before the first event, (B, H)."""
        sizes = [layer.h_kernel_Hx3H[...].shape[0] for layer in self.layers]
        return [jnp.zeros((batch, size), self.item_embedding[...].dtype) for size in sizes]

    def step(self, states: list[jax.Array], item_B: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """Take in one more item; return the states and the vector behind it, (B, D)."""
        x_BxH, behind = self.lookup(item_B[:, None])[:, 0], []
        for layer, h_BxH in zip(self.layers, states, strict=True):
            x_BxH = layer.step(h_BxH, x_BxH)
            behind.append(x_BxH)
        return behind, self.dense(x_BxH)

    def _states(self, item_ids_BxL: jax.Array, keys: jax.Array | None) -> jax.Array:
        x_BxLxH = dropout(self.lookup(item_ids_BxL), self.dropout, keys)
        for layer in self.layers:
            x_BxLxH = layer(x_BxLxH)
        return x_BxLxH
