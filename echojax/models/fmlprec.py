"""FMLP-Rec (arXiv 2202.13556): learnable filters in place of attention."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from echojax.models.base import LayeredModel
from echojax.models.layers import (
    FeedForward,
    Keys,
    PositionEmbedding,
    SpectralFilter,
    dropout,
    split_keys,
)
from echojax.models.positions import pad_to


class FilterLayer(nnx.Module):
    """Filter and feed-forward network (section 3.2)."""

    def __init__(self, d_model: int, *, max_len: int, dropout: float, rngs: nnx.Rngs):
        self.filter = SpectralFilter(max_len, d_model, dropout=dropout, rngs=rngs)
        self.ffn = FeedForward(d_model, dropout=dropout, rngs=rngs)

    def __call__(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the layer's output at every position, (B, L, D)."""
        keys = split_keys(dropout_keys, 2)
        x_BxLxD = _masked(x_BxLxD, lengths_B)
        return self.ffn(self.filter(x_BxLxD, dropout_keys=keys[0]), dropout_keys=keys[1])

    def readout(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the layer's output at the window's end, (B, D).

        There the circular convolution is one weighted sum: no transform of the rows is needed.
        """
        keys = split_keys(dropout_keys, 2)
        x_BxLxD = _masked(x_BxLxD, lengths_B)
        taps_LxD = self.filter.taps(self.filter.response())
        y_BxD = jnp.einsum("bld,ld->bd", x_BxLxD, taps_LxD[::-1])
        y_BxD = dropout(y_BxD, self.filter.dropout, keys[0]) + x_BxLxD[:, -1]
        return self.ffn(self.filter.norm(y_BxD), dropout_keys=keys[1])


def _masked(x_BxLxD: Array, lengths_B: Array) -> Array:
    """Set the positions before a history to zero."""
    length = x_BxLxD.shape[1]
    item_BxL = jnp.arange(length) >= length - lengths_B[:, None]
    return jnp.where(item_BxL[..., None], x_BxLxD, 0)


class FMLPRec(LayeredModel):
    """Embedding -> positions -> [filter -> feed-forward] x layers -> the vector at the last item.

    As in the paper, histories end at the end of the window (they are rolled), so that the taps of a
    filter and the positions count from the last item. Positions before a history are zero in the
    input of each filter; in the authors' code they are vectors of the position alone, from which
    the filter could learn only the length of the history. The last layer is computed at the last
    position only.
    """

    not_causal = "its filters change every position with every event"

    def __init__(
        self,
        num_items: int,
        *,
        d_model: int = 64,
        layers: int = 2,
        dropout: float = 0.5,
        max_len: int = 50,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        self.positions = PositionEmbedding(max_len, d_model, dropout=dropout, rngs=rngs)
        shared: dict[str, Any] = {"max_len": max_len, "dropout": dropout, "rngs": rngs}
        self.layers = nnx.List([FilterLayer(d_model, **shared) for _ in range(layers)])

    def arranged(self, item_ids_BxL: Array, lengths_B: Array) -> tuple[Array, Array]:
        """Return the histories padded on the left, (B, max_len), and their lengths."""
        items_BxL = pad_to(item_ids_BxL, self.max_len)
        columns_BxL = jnp.arange(items_BxL.shape[1]) + lengths_B[:, None]
        columns_BxL %= items_BxL.shape[1]
        return jnp.take_along_axis(items_BxL, columns_BxL, axis=1), lengths_B

    def embed(self, x: Array, keys: Keys, position_B: Array | None = None) -> Array:
        """Return the items' vectors with those of their positions; see ``LayeredModel.embed``."""
        return self.positions(x, position_B, dropout_keys=keys)
