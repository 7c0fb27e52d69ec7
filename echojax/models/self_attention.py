"""Self-attention with a residual and a normalisation: all positions, the last one, or one more."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.errors import UserError
from echojax.models.blocked_attention import blocked_attention, is_better
from echojax.models.dropout import dropout
from echojax.models.initializers import normal
from echojax.models.layer_norm import layer_norm
from echojax.models.positions import at_position, mask


class KeyValueCache(NamedTuple):
    """Keys and values of the positions so far, each (B, H, L, K): H heads, K = D / H."""

    key_BxHxLxK: jax.Array
    value_BxHxLxK: jax.Array


class SelfAttention(nnx.Module):
    """``LayerNorm(dropout(out(softmax(q k^T / sqrt(D / heads)) v)) + x)``.

    Args:
        d_model: D.
        heads: how many; must divide ``d_model``.
        causal: whether a position sees none behind it.
        dropout: rate.
        rngs: streams of random keys for the initial parameters.
    """

    def __init__(self, d_model: int, *, heads: int, causal: bool, dropout: float, rngs: nnx.Rngs):
        check_heads(heads, d_model)
        self.heads, self.causal, self.dropout = heads, causal, dropout
        dense: dict[str, Any] = {"kernel_init": normal, "rngs": rngs}
        self.query = nnx.Linear(d_model, d_model, **dense)
        self.key = nnx.Linear(d_model, d_model, **dense)
        self.value = nnx.Linear(d_model, d_model, **dense)
        self.out = nnx.Linear(d_model, d_model, **dense)
        self.norm = layer_norm(d_model, rngs=rngs)

    def __call__(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the output at every position, (B, L, D)."""
        q, k, v = (self._split(linear(x_BxLxD)) for linear in (self.query, self.key, self.value))
        if is_better(x_BxLxD.shape[1]):
            y_BxLxHxK = blocked_attention(q, k, v, lengths_B, causal=self.causal)
        else:
            y_BxLxHxK = jax.nn.dot_product_attention(
                q, k, v, is_causal=self.causal, key_value_seq_lengths=lengths_B
            )
        return self._behind(y_BxLxHxK, x_BxLxD, dropout_keys)

    def readout(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the output at the last item alone, (B, D): it sees all items in either case."""
        last_BxD = at_position(x_BxLxD, lengths_B - 1)
        by_position = (self._split(linear(x_BxLxD)) for linear in (self.key, self.value))
        cache = KeyValueCache(*(jnp.swapaxes(x_BxLxHxK, 1, 2) for x_BxLxHxK in by_position))
        return self._look_back(cache, last_BxD, lengths_B, dropout_keys)

    def start(self, batch: int, max_len: int) -> KeyValueCache:
        """Return a cache with room for ``max_len`` positions."""
        kernel = self.key.kernel[...]
        shape = (batch, self.heads, max_len, kernel.shape[1] // self.heads)
        # Two arrays: one that is changed in place must not be the other as well.
        return KeyValueCache(jnp.zeros(shape, kernel.dtype), jnp.zeros(shape, kernel.dtype))

    def step(
        self, cache: KeyValueCache, x_BxD: jax.Array, position_B: jax.Array
    ) -> tuple[KeyValueCache, jax.Array]:
        """Take in row b's next position, position[b]; return the cache and its output, (B, D)."""
        row_B = jnp.arange(len(x_BxD))
        cache = KeyValueCache(
            cache.key_BxHxLxK.at[row_B, :, position_B].set(self._split(self.key(x_BxD))),
            cache.value_BxHxLxK.at[row_B, :, position_B].set(self._split(self.value(x_BxD))),
        )
        return cache, self._look_back(cache, x_BxD, position_B + 1, None)

    def _look_back(
        self, cache: KeyValueCache, x_BxD: jax.Array, lengths_B: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        """Return the output at the newest position, whose input is x.

        On a CPU it is a twentieth of what ``jax.nn.dot_product_attention`` takes for one query.
        """
        q_BxHxK = self._split(self.query(x_BxD))
        score_BxHxL = jnp.einsum(
            "bhk,bhlk->bhl", q_BxHxK * q_BxHxK.shape[-1] ** -0.5, cache.key_BxHxLxK,
            preferred_element_type=jnp.promote_types(x_BxD.dtype, jnp.float32),
        )  # fmt: skip
        seen_Bx1xL = mask(lengths_B, score_BxHxL.shape[-1])[:, None]
        weight_BxHxL = jax.nn.softmax(jnp.where(seen_Bx1xL, score_BxHxL, -jnp.inf), axis=-1)
        y_BxHxK = jnp.einsum("bhl,bhlk->bhk", weight_BxHxL.astype(x_BxD.dtype), cache.value_BxHxLxK)
        return self._behind(y_BxHxK, x_BxD, keys)

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def _behind(self, y: jax.Array, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        return self.norm(dropout(self.out(y.reshape(x.shape)), self.dropout, keys) + x)


def check_heads(heads: int, d_model: int) -> None:
    """Raise ``UserError`` where ``heads`` does not divide ``d_model``."""
    if d_model % heads:
        raise UserError(f"--heads {heads} does not divide --d-model {d_model}; change one of them")
