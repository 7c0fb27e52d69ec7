"""Mamba4Rec (arXiv 2403.03900): the causal model that EchoMamba4Rec extends."""

from typing import Any

from flax import nnx
from jax import Array

from echojax.models.base import CausalModel
from echojax.models.layers import FeedForward, Keys, dropout, layer_norm, split_keys
from echojax.models.mamba import Mamba, MambaState
from echojax.models.positions import TimeSharded, at_position


class CausalLayer(TimeSharded):
    """Mamba and a feed-forward network; ``residual`` joins Mamba's input to its output."""

    def __init__(
        self, mamba: Mamba, *, d_model: int, dropout: float, residual: bool, rngs: nnx.Rngs
    ):
        self.mamba, self.dropout, self.residual = mamba, dropout, residual
        self.norm = layer_norm(d_model, rngs=rngs)
        self.ffn = FeedForward(d_model, dropout=dropout, rngs=rngs)

    def __call__(self, x_BxLxD: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the layer's output at every position, (B, L, D)."""
        return self._after_mamba(self.mamba(x_BxLxD), x_BxLxD, dropout_keys)

    def readout(self, x_BxLxD: Array, last_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the layer's output at the last item only, (B, D)."""
        y_BxD = self.mamba.readout(x_BxLxD, last_B)
        x_BxD = at_position(x_BxLxD, last_B, self.time_axis)
        return self._after_mamba(y_BxD, x_BxD, dropout_keys)

    def step(self, state: MambaState, x_BxD: Array) -> tuple[MambaState, Array]:
        """Take in one more position; return Mamba's state and the output there, (B, D)."""
        state, y_BxD = self.mamba.step(state, x_BxD)
        return state, self._after_mamba(y_BxD, x_BxD, None)

    def _after_mamba(self, y: Array, x: Array, key: Keys) -> Array:
        keys = split_keys(key, 2)
        y = dropout(y, self.dropout, keys[0], self.time_axis)
        return self.ffn(self.norm(y + x if self.residual else y), dropout_keys=keys[1])


class Mamba4Rec(CausalModel):
    """Embedding -> [Mamba -> feed-forward] x layers -> the vector at the last item.

    A single layer has no residual around Mamba, as in the authors' code. Sizes as for
    ``EchoMamba4Rec``.
    """

    sequence_parallel = True

    def __init__(
        self,
        num_items: int,
        *,
        d_model: int = 64,
        layers: int = 1,
        d_state: int = 32,
        d_conv: int = 4,
        expand: int = 2,
        dropout: float = 0.2,
        max_len: int = 50,
        scan: str = "auto",
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        self.dropout, self.norm = dropout, layer_norm(d_model, rngs=rngs)
        mamba: dict[str, Any] = {
            "d_state": d_state,
            "d_conv": d_conv,
            "expand": expand,
            "time_step_init": False,  # the authors' re-initialisation reaches Mamba here too
            "scan": scan,
        }
        shared = {"d_model": d_model, "dropout": dropout, "residual": layers > 1, "rngs": rngs}
        self.layers = nnx.List(
            [CausalLayer(Mamba(d_model, **mamba, rngs=rngs), **shared) for _ in range(layers)]
        )

    def read_all(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return one vector a position, (B, L, D); see ``CausalModel.read_all``."""
        keys = split_keys(dropout_keys, len(self.layers) + 1)
        x_BxLxD = self._embed(x_BxLxD, keys[0])
        for layer, key in zip(self.layers, keys[1:], strict=True):
            x_BxLxD = layer(x_BxLxD, dropout_keys=key)
        return x_BxLxD

    def read_out(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return one vector a history, (B, D); of the last layer only its position is computed."""
        keys = split_keys(dropout_keys, len(self.layers) + 1)
        x_BxLxD = self._embed(x_BxLxD, keys[0])
        for layer, key in zip(self.layers[:-1], keys[1:-1], strict=True):
            x_BxLxD = layer(x_BxLxD, dropout_keys=key)
        return self.layers[-1].readout(x_BxLxD, lengths_B - 1, dropout_keys=keys[-1])

    def start(self, batch: int) -> list[MambaState]:
        """Return each layer's state before the first event."""
        dtype = self.item_embedding[...].dtype
        return [layer.mamba.start(batch, dtype) for layer in self.layers]

    def step(self, states: list[MambaState], item_B: Array) -> tuple[list[MambaState], Array]:
        """Take in one more item; return the states and the vector after it, (B, D)."""
        x_BxD, after = self.norm(self.lookup_one(item_B)), []
        for layer, state in zip(self.layers, states, strict=True):
            state, x_BxD = layer.step(state, x_BxD)
            after.append(state)
        return after, x_BxD

    def _embed(self, x_BxLxD: Array, keys: Keys) -> Array:
        return self.norm(dropout(x_BxLxD, self.dropout, keys, self.time_axis))
