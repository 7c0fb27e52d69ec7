"""Caser (arXiv 1809.07426): the newest items as an image, convolved both ways."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from echojax.models.base import CausalModel
from echojax.models.layers import Keys, Linear, dropout, uniform_within

_HORIZONTAL = 16  # filters of each height
_VERTICAL = 4  # filters


class Caser(CausalModel):
    """Horizontal filters of every height with their maxima, vertical filters, one dense layer.

    At each position, the newest ``window`` items are a (window, D) image, with zeros before the
    first item. The paper adds a vector of the user; here the history is the only input, so that
    the model can serve users that are not in the training data.
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
        self.dense = Linear(
            features, d_model, kernel_init=nnx.initializers.xavier_normal(), rngs=rngs
        )

    def read_all(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return one vector a position, (B, L, D); see ``CausalModel.read_all``."""
        return self._convolve(self._image(x_BxLxD), dropout_keys)

    def read_out(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the vector at the last item, (B, D), from its image only."""
        newest_BxW = lengths_B[:, None] - 1 + jnp.arange(self.window)
        image_BxWxD = self._image(x_BxLxD)
        image_BxWxD = jnp.take_along_axis(image_BxWxD, newest_BxW[..., None], axis=1)
        return self._convolve(image_BxWxD, dropout_keys)[:, 0]

    def start(self, batch: int) -> Array:
        """Return the image before the first event, (B, window, D)."""
        table_VxD = self.item_embedding[...]
        return jnp.zeros((batch, self.window, table_VxD.shape[1]), table_VxD.dtype)

    def step(self, image_BxWxD: Array, item_B: Array) -> tuple[Array, Array]:
        """Take in one more item; return the image and the vector after it, (B, D)."""
        newest_Bx1xD, _ = self.lookup(item_B[:, None])
        image_BxWxD = jnp.concatenate([image_BxWxD[:, 1:], newest_Bx1xD], axis=1)
        return image_BxWxD, self._convolve(image_BxWxD, None)[:, 0]

    def _image(self, x_BxLxD: Array) -> Array:
        """Return the items with zeros before them, (B, window - 1 + L, D)."""
        return jnp.pad(x_BxLxD, ((0, 0), (self.window - 1, 0), (0, 0)))

    def _convolve(self, image_BxTxD: Array, keys: Keys) -> Array:
        """Return a vector for each run of ``window`` rows, (B, T - window + 1, D)."""
        positions = image_BxTxD.shape[1] - self.window + 1
        found = []
        # The output of a filter is the same in all images with its rows, and computed once.
        for height, linear in enumerate(self.heights, start=1):
            answers = nnx.relu(linear(_runs(image_BxTxD, height)))
            most = [answers[:, i : i + positions] for i in range(self.window - height + 1)]
            found.append(jnp.max(jnp.stack(most), axis=0))
        rows = [image_BxTxD[:, i : i + positions] for i in range(self.window)]
        vertical_BxLxDxF = self.vertical(jnp.stack(rows, axis=-1))
        found.append(jax.lax.collapse(vertical_BxLxDxF, 2))
        features = dropout(jnp.concatenate(found, axis=-1), self.dropout, keys)
        return nnx.relu(self.dense(features))


def _convolution(inputs: int, filters: int, rngs: nnx.Rngs) -> Linear:
    """Return filters with PyTorch's initial values; with N(0, 0.02), many filters would be dead."""
    init = uniform_within(inputs**-0.5)
    return Linear(inputs, filters, kernel_init=init, bias_init=init, rngs=rngs)


def _runs(image_BxTxD: Array, height: int) -> Array:
    """Return each run of ``height`` rows as one vector, (B, T - height + 1, height * D)."""
    count = image_BxTxD.shape[1] - height + 1
    return jnp.concatenate([image_BxTxD[:, i : i + count] for i in range(height)], axis=-1)
