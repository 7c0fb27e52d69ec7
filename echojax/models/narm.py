"""NARM (arXiv 1711.04725): a recurrent encoder with attention over its own states."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from echojax.models.base import CausalModel
from echojax.models.gru import GRU
from echojax.models.layers import Keys, Linear, dropout, split_keys
from echojax.models.positions import at_position

_xavier = nnx.initializers.xavier_normal()


class NARM(CausalModel):
    """Embedding -> GRU -> [local, global] -> bilinear decoding.

    After position t the global part is the state ``h_t``, the local one
    ``sum_j v' sigmoid(A_1 h_t + A_2 h_j) h_j`` over the states read so far (equations 5 to 8), and
    an item's score ``item' B [local, global]`` (equation 9).

    The rate of dropout is ``dropout`` before the decoding, and half of that after the embedding, as
    in the paper (.5 and .25).
    """

    windowed = True

    def __init__(
        self,
        num_items: int,
        *,
        d_model: int = 64,
        hidden_size: int = 128,
        dropout: float = 0.5,
        max_len: int = 50,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        self.item_embedding.set_value(_xavier(rngs.params(), (num_items, d_model)))
        self.dropout = dropout
        linear = partial(Linear, use_bias=False, kernel_init=_xavier, rngs=rngs)
        self.gru = GRU(d_model, hidden_size, use_bias=False, rngs=rngs)
        self.a_1 = linear(hidden_size, hidden_size)
        self.a_2 = linear(hidden_size, hidden_size)
        self.v = linear(hidden_size, 1)
        self.b = linear(2 * hidden_size, d_model)

    def read_all(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return one vector a position, (B, L, D); see ``CausalModel.read_all``."""
        keys = split_keys(dropout_keys, 2)
        h_BxLxH = self._states(x_BxLxD, keys[0])
        keys_BxLxH = self.a_2(h_BxLxH)

        # Position by position, because the energies of all pairs would be (B, L, L, H).
        @jax.checkpoint
        def local_at(query: tuple[Array, Array]) -> Array:
            return self._local(h_BxLxH, keys_BxLxH, *query)

        queries = (jnp.arange(h_BxLxH.shape[1]), jnp.swapaxes(h_BxLxH, 0, 1))
        local_BxLxH = jnp.swapaxes(jax.lax.map(local_at, queries), 0, 1)
        return self._decode(local_BxLxH, h_BxLxH, keys[1])

    def read_out(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return one vector per history, (B, D); attention is computed at its end only."""
        keys = split_keys(dropout_keys, 2)
        last_B = lengths_B - 1
        h_BxLxH = self._states(x_BxLxD, keys[0])
        last_BxH = at_position(h_BxLxH, last_B)
        local_BxH = self._local(h_BxLxH, self.a_2(h_BxLxH), last_B[:, None], last_BxH)
        return self._decode(local_BxH, last_BxH, keys[1])

    def start(self, batch: int) -> tuple[Array, Array]:
        """Return states and their maps by ``A_2`` before the first event, (B, L, H) each."""
        size = self.a_1.kernel[...].shape[0]
        shape, dtype = (batch, self.max_len, size), self.item_embedding[...].dtype
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    def step(
        self, kept: tuple[Array, Array], item_B: Array, position_B: Array
    ) -> tuple[tuple[Array, Array], Array]:
        """Take in an item at position[b] of row b; return the state and the vector, (B, D)."""
        h_BxLxH, keys_BxLxH = kept
        row_B, first_Bx1 = jnp.arange(len(item_B)), position_B[:, None] == 0
        before_BxH = jnp.where(first_Bx1, 0, h_BxLxH[row_B, position_B - 1])
        h_BxH = self.gru.step(before_BxH, self.lookup_one(item_B))
        h_BxLxH = h_BxLxH.at[row_B, position_B].set(h_BxH)
        keys_BxLxH = keys_BxLxH.at[row_B, position_B].set(self.a_2(h_BxH))
        local_BxH = self._local(h_BxLxH, keys_BxLxH, position_B[:, None], h_BxH)
        return (h_BxLxH, keys_BxLxH), self._decode(local_BxH, h_BxH, None)

    def _states(self, x_BxLxD: Array, keys: Keys) -> Array:
        return self.gru(dropout(x_BxLxD, self.dropout / 2, keys))

    def _local(self, h_BxLxH: Array, keys_BxLxH: Array, position: Array, query_BxH: Array) -> Array:
        energy_BxLxH = nnx.sigmoid(keys_BxLxH + self.a_1(query_BxH)[:, None])
        read_BxL = jnp.arange(h_BxLxH.shape[1]) <= position
        alpha_BxL = jnp.where(read_BxL, self.v(energy_BxLxH)[..., 0], 0)
        return jnp.einsum("bl,blh->bh", alpha_BxL, h_BxLxH)

    def _decode(self, local: Array, last: Array, keys: Keys) -> Array:
        return self.b(dropout(jnp.concatenate([local, last], axis=-1), self.dropout, keys))
