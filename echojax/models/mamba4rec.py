"""Mamba4Rec (arXiv 2403.03900): the causal model that EchoMamba4Rec extends."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.base import SequenceModel, split_key
from echojax.models.dropout import dropout
from echojax.models.initializers import normal
from echojax.models.mamba import Mamba, at_position


class FeedForward(nnx.Module):
    """``LayerNorm(dropout(w_2(dropout(gelu(w_1 x)))) + x)``, four times as wide inside."""

    def __init__(self, width: int, *, dropout: float, rngs: nnx.Rngs):
        self.dropout = dropout
        self.w_1 = nnx.Linear(width, 4 * width, kernel_init=normal, rngs=rngs)
        self.w_2 = nnx.Linear(4 * width, width, kernel_init=normal, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-12, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: jax.Array, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Return the same shape as ``x`` (..., D)."""
        keys = split_key(dropout_key, 2)
        inner = dropout(nnx.gelu(self.w_1(x), approximate=False), self.dropout, keys[0])
        return self.norm(dropout(self.w_2(inner), self.dropout, keys[1]) + x)


class CausalLayer(nnx.Module):
    """Mamba and a feed-forward network; ``residual`` joins Mamba's input to its output."""

    def __init__(self, mamba: Mamba, *, width: int, dropout: float, residual: bool, rngs: nnx.Rngs):
        self.mamba, self.dropout, self.residual = mamba, dropout, residual
        self.norm = nnx.LayerNorm(width, epsilon=1e-12, use_fast_variance=False, rngs=rngs)
        self.ffn = FeedForward(width, dropout=dropout, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Return the layer's output at every position, (B, L, D)."""
        return self._behind_mamba(self.mamba(x_BxLxD), x_BxLxD, dropout_key)

    def readout(
        self, x_BxLxD: jax.Array, last_B: jax.Array, *, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Return the layer's output at the last item alone, (B, D)."""
        y_BxD = self.mamba.readout(x_BxLxD, last_B)
        return self._behind_mamba(y_BxD, at_position(x_BxLxD, last_B), dropout_key)

    def _behind_mamba(self, y: jax.Array, x: jax.Array, key: jax.Array | None) -> jax.Array:
        keys = split_key(key, 2)
        y = dropout(y, self.dropout, keys[0])
        return self.ffn(self.norm(y + x if self.residual else y), dropout_key=keys[1])


class Mamba4Rec(SequenceModel):
    """Embedding -> [Mamba -> feed-forward] x layers -> the vector at the last item.

    A single layer has no residual around Mamba, as in the authors' code. Arguments as for
    ``EchoMamba4Rec``.
    """

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 64,
        layers: int = 1,
        state_size: int = 32,
        conv_width: int = 4,
        expand: int = 2,
        dropout: float = 0.2,
        max_len: int = 50,
        scan: str = "auto",
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, width=width, max_len=max_len, dropout=dropout, rngs=rngs)
        mamba: dict[str, Any] = {
            "state_size": state_size,
            "conv_width": conv_width,
            "expand": expand,
            "time_step_init": False,  # the authors' re-initialisation reaches Mamba here too
            "scan": scan,
        }
        shared = {"width": width, "dropout": dropout, "residual": layers > 1, "rngs": rngs}
        self.layers = nnx.List(
            [CausalLayer(Mamba(width, **mamba, rngs=rngs), **shared) for _ in range(layers)]
        )

    def encode(
        self, item_ids_BxL: jax.Array, lengths_B: jax.Array, *, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Return one vector a history, (B, D); see ``SequenceModel.encode``."""
        lengths_B = jnp.asarray(lengths_B)
        keys = split_key(dropout_key, len(self.layers) + 1)
        x_BxLxD = self.embed(item_ids_BxL, keys[0])
        for layer, key in zip(self.layers[:-1], keys[1:-1], strict=True):
            x_BxLxD = layer(x_BxLxD, dropout_key=key)
        return self.layers[-1].readout(x_BxLxD, lengths_B - 1, dropout_key=keys[-1])
