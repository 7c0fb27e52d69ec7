"""The transformer that SASRec and BERT4Rec share, as RecBole builds it.

RecBole drops attention probabilities too. ``jax.nn.dot_product_attention``, which has fused kernels
on accelerators, cannot, so only the layers' outputs are dropped here.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.errors import UserError
from echojax.models.blocked_attention import blocked_attention, is_better
from echojax.models.dropout import dropout, split_keys
from echojax.models.feed_forward import FeedForward
from echojax.models.initializers import normal
from echojax.models.layer_norm import layer_norm
from echojax.models.position_embedding import PositionEmbedding
from echojax.models.positions import at_position


class KeyValueCache(NamedTuple):
    """Keys and values of the positions so far, (B, L, heads, D / heads) each."""

    key_BxLxHxK: jax.Array
    value_BxLxHxK: jax.Array


class SelfAttention(nnx.Module):
    """``LayerNorm(dropout(out(softmax(q k^T / sqrt(D / heads)) v)) + x)``.

    Args:
        width: D.
        heads: how many; must divide ``width``.
        causal: whether a position sees none behind it.
        dropout: rate.
        rngs: streams of random keys for the initial parameters.
    """

    def __init__(self, width: int, *, heads: int, causal: bool, dropout: float, rngs: nnx.Rngs):
        check_heads(heads, width)
        self.heads, self.causal, self.dropout = heads, causal, dropout
        dense: dict[str, Any] = {"kernel_init": normal, "rngs": rngs}
        self.query = nnx.Linear(width, width, **dense)
        self.key = nnx.Linear(width, width, **dense)
        self.value = nnx.Linear(width, width, **dense)
        self.out = nnx.Linear(width, width, **dense)
        self.norm = layer_norm(width, rngs=rngs)

    def __call__(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the output at every position, (B, L, D)."""
        q, k, v = self._split(self.query(x_BxLxD)), *self._keys_and_values(x_BxLxD)
        if is_better(x_BxLxD.shape[1]):
            y_BxLxHxK = blocked_attention(q, k, v, lengths_B, causal=self.causal)
        else:
            y_BxLxHxK = jax.nn.dot_product_attention(
                q, k, v, is_causal=self.causal, key_value_seq_lengths=lengths_B
            )
        return self._behind(y_BxLxHxK.reshape(x_BxLxD.shape), x_BxLxD, dropout_keys)

    def readout(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the output at the last item alone, (B, D): it sees all items in either case."""
        last_BxD = at_position(x_BxLxD, lengths_B - 1)
        cache = KeyValueCache(*self._keys_and_values(x_BxLxD))
        return self._look_back(cache, last_BxD, lengths_B, dropout_keys)

    def start(self, batch: int, max_len: int) -> KeyValueCache:
        """Return a cache with room for ``max_len`` positions."""
        kernel = self.key.kernel[...]
        shape = (batch, max_len, self.heads, kernel.shape[1] // self.heads)
        # Two arrays: one that is changed in place must not be the other as well.
        return KeyValueCache(jnp.zeros(shape, kernel.dtype), jnp.zeros(shape, kernel.dtype))

    def step(
        self, cache: KeyValueCache, x_BxD: jax.Array, position_B: jax.Array
    ) -> tuple[KeyValueCache, jax.Array]:
        """Take in row b's next position, position[b]; return the cache and its output, (B, D)."""
        row_B = jnp.arange(len(x_BxD))
        new = self._keys_and_values(x_BxD)
        cache = KeyValueCache(
            *(old.at[row_B, position_B].set(x) for old, x in zip(cache, new, strict=True))
        )
        return cache, self._look_back(cache, x_BxD, position_B + 1, None)

    def _look_back(
        self, cache: KeyValueCache, x_BxD: jax.Array, lengths_B: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        """Return the output at the newest position, whose input is x."""
        q_Bx1xHxK = self._split(self.query(x_BxD))[:, None]
        y_Bx1xHxK = jax.nn.dot_product_attention(q_Bx1xHxK, *cache, key_value_seq_lengths=lengths_B)
        return self._behind(y_Bx1xHxK.reshape(x_BxD.shape), x_BxD, keys)

    def _keys_and_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._split(self.key(x)), self._split(self.value(x))

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def _behind(self, y: jax.Array, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        return self.norm(dropout(self.out(y), self.dropout, keys) + x)


class TransformerLayer(nnx.Module):
    """Self-attention and a feed-forward network; arguments as for ``SelfAttention``."""

    def __init__(self, width: int, *, heads: int, causal: bool, dropout: float, rngs: nnx.Rngs):
        self.attention = SelfAttention(
            width, heads=heads, causal=causal, dropout=dropout, rngs=rngs
        )
        self.ffn = FeedForward(width, dropout=dropout, inner_dropout=0.0, rngs=rngs)

    def __call__(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the layer's output at every position, (B, L, D)."""
        keys = split_keys(dropout_keys, 2)
        y_BxLxD = self.attention(x_BxLxD, lengths_B, dropout_keys=keys[0])
        return self.ffn(y_BxLxD, dropout_keys=keys[1])

    def readout(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the layer's output at the last item alone, (B, D)."""
        keys = split_keys(dropout_keys, 2)
        y_BxD = self.attention.readout(x_BxLxD, lengths_B, dropout_keys=keys[0])
        return self.ffn(y_BxD, dropout_keys=keys[1])

    def step(
        self, cache: KeyValueCache, x_BxD: jax.Array, position_B: jax.Array
    ) -> tuple[KeyValueCache, jax.Array]:
        """Take in one more position; see ``SelfAttention.step``."""
        cache, y_BxD = self.attention.step(cache, x_BxD, position_B)
        return cache, self.ffn(y_BxD)


class Transformer(nnx.Module):
    """Positions -> [self-attention -> feed-forward] x layers.

    Args:
        width: D.
        layers: how many layers, at least 1.
        heads: attention heads; must divide ``width``.
        causal: whether a position sees none behind it.
        dropout: rate, everywhere but on attention probabilities.
        max_len: how many positions there are.
        rngs: streams of random keys for the initial parameters.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int,
        heads: int,
        causal: bool,
        dropout: float,
        max_len: int,
        rngs: nnx.Rngs,
    ):
        self.positions = PositionEmbedding(max_len, width, dropout=dropout, rngs=rngs)
        shared: dict[str, Any] = {"heads": heads, "causal": causal, "dropout": dropout}
        self.layers = nnx.List(
            [TransformerLayer(width, **shared, rngs=rngs) for _ in range(layers)]
        )

    def __call__(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the output at every position, (B, L, D); past the lengths it means nothing."""
        lengths_B = jnp.asarray(lengths_B, jnp.int32)
        x_BxLxD, last = self._below_last(x_BxLxD, lengths_B, dropout_keys)
        return self.layers[-1](x_BxLxD, lengths_B, dropout_keys=last)

    def readout(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the output at position ``lengths - 1``, (B, D); only that of the last layer."""
        lengths_B = jnp.asarray(lengths_B, jnp.int32)
        x_BxLxD, last = self._below_last(x_BxLxD, lengths_B, dropout_keys)
        return self.layers[-1].readout(x_BxLxD, lengths_B, dropout_keys=last)

    def start(self, batch: int) -> list[KeyValueCache]:
        """Return each layer's cache before the first position."""
        max_len = self.positions.position_LxD[...].shape[0]
        return [layer.attention.start(batch, max_len) for layer in self.layers]

    def step(
        self, caches: list[KeyValueCache], x_BxD: jax.Array, position_B: jax.Array
    ) -> tuple[list[KeyValueCache], jax.Array]:
        """Take in row b's next position, position[b]; return the output there, (B, D).

        Only causal attention gives what ``readout`` would.
        """
        x_BxD, behind = self.positions.at(x_BxD, position_B), []
        for layer, cache in zip(self.layers, caches, strict=True):
            cache, x_BxD = layer.step(cache, x_BxD, position_B)
            behind.append(cache)
        return behind, x_BxD

    def _below_last(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, dropout_keys: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Return what the last layer reads, and its keys."""
        keys = split_keys(dropout_keys, len(self.layers) + 1)
        x_BxLxD = self.positions(x_BxLxD, dropout_keys=keys[0])
        for layer, key in zip(self.layers[:-1], keys[1:-1], strict=True):
            x_BxLxD = layer(x_BxLxD, lengths_B, dropout_keys=key)
        return x_BxLxD, keys[-1]


def check_heads(heads: int, width: int) -> None:
    """Raise ``UserError`` where ``heads`` does not divide ``width``."""
    if width % heads:
        raise UserError(f"--heads {heads} does not divide --width {width}; change one of them")
