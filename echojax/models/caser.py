"""Caser (arXiv 1809.07426): the newest items as an image, convolved both ways."""

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.base import CausalModel
from echojax.models.dropout import dropout
from echojax.models.initializers import uniform_within

_HORIZONTAL = 16  # filters of each height
_VERTICAL = 4  # filters


class Caser(CausalModel):
    """Horizontal filters of every height with their maxima, vertical filters, one dense layer.

    Behind each position the newest ``window`` items are a (window, D) image; where there are
    fewer, zeros stand before them. The paper adds a vector of the user; here a model is asked with
    a history alone, so that it serves users it has never seen.

    Args:
        num_items: V, with padding as item 0.
        d_model: D.
        window: the Markov order, items in the image.
        dropout: rate before the dense layer.
        max_len: L, how many of the newest items a history shows.
        rngs: streams of random keys for the initial parameters.
    """

    def __init__(
        self,
        num_items: int,
        *,
        d_model: int = 64,
        window: int = 5,
        dropout: float = 0.5,
        max_len: int = 50,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        self.window, self.dropout = window, dropout
        self.heights = nnx.List(
            [_convolution(height * d_model, _HORIZONTAL, rngs) for height in range(1, window + 1)]
        )
        self.vertical = _convolution(window, _VERTICAL, rngs)
        features = _HORIZONTAL * window + _VERTICAL * d_model
        self.dense = nnx.Linear(
            features, d_model, kernel_init=nnx.initializers.xavier_normal(), rngs=rngs
        )

    def encode_all(
        self,
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Return one vector a position, (B, L, D); see ``CausalModel.encode_all``."""
        return self._convolve(self._image(item_ids_BxL), dropout_keys)

    def encode(
        self,
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Return the vector at the last item, (B, D), from its image alone."""
        newest_BxW = jnp.asarray(lengths_B)[:, None] - 1 + jnp.arange(self.window)
        image_BxWxD = self._image(item_ids_BxL)
        image_BxWxD = jnp.take_along_axis(image_BxWxD, newest_BxW[..., None], axis=1)
        return self._convolve(image_BxWxD, dropout_keys)[:, 0]

    def start(self, batch: int) -> jax.Array:
        """Return the image before the first event, (B, window, D)."""
        table_VxD = self.item_embedding[...]
        return jnp.zeros((batch, self.window, table_VxD.shape[1]), table_VxD.dtype)

    def step(self, image_BxWxD: jax.Array, item_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Take in one more item; return the image and the vector behind it, (B, D)."""
        newest_Bx1xD = self.lookup(item_B[:, None])
        image_BxWxD = jnp.concatenate([image_BxWxD[:, 1:], newest_Bx1xD], axis=1)
        return image_BxWxD, self._convolve(image_BxWxD, None)[:, 0]

    def _image(self, item_ids_BxL: jax.Array) -> jax.Array:
        """Return the items with zeros before them, (B, window - 1 + L, D)."""
        return jnp.pad(self.lookup(item_ids_BxL), ((0, 0), (self.window - 1, 0), (0, 0)))

    def _convolve(self, image_BxTxD: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Return a vector for each stretch of ``window`` rows, (B, T - window + 1, D)."""
        positions = image_BxTxD.shape[1] - self.window + 1
        found = []
        # A filter's answer is the same in all images that hold its rows: computed once.
        for height, linear in enumerate(self.heights, start=1):
            answers = nnx.relu(linear(_stretches(image_BxTxD, height)))
            most = [answers[:, i : i + positions] for i in range(self.window - height + 1)]
            found.append(jnp.max(jnp.stack(most), axis=0))
        rows = [image_BxTxD[:, i : i + positions] for i in range(self.window)]
        vertical_BxLxDxF = self.vertical(jnp.stack(rows, axis=-1))
        found.append(vertical_BxLxDxF.reshape(*vertical_BxLxDxF.shape[:2], -1))
        features = dropout(jnp.concatenate(found, axis=-1), self.dropout, keys)
        return nnx.relu(self.dense(features))


def _convolution(inputs: int, filters: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Return filters that start as PyTorch's convolutions do; N(0, 0.02) leaves many silent."""
    init = uniform_within(inputs**-0.5)
    return nnx.Linear(inputs, filters, kernel_init=init, bias_init=init, rngs=rngs)


def _stretches(image_BxTxD: jax.Array, height: int) -> jax.Array:
    """Return each stretch of ``height`` rows as one vector, (B, T - height + 1, height * D)."""
    count = image_BxTxD.shape[1] - height + 1
    return jnp.concatenate([image_BxTxD[:, i : i + count] for i in range(height)], axis=-1)
