"""Mamba4Rec (arXiv 2403.03900): the causal model that EchoMamba4Rec extends."""

from typing import Any

from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from echojax.models.base import CausalModel, LayeredModel
from echojax.models.layers import FeedForward, Gaps, Keys, LayerNorm, dropout, split_keys
from echojax.models.mamba import Mamba, MambaState
from echojax.models.positions import TimeSharded, at_position


class CausalLayer(TimeSharded):
    """Mamba and a feed-forward network; with ``residual``, Mamba's input is added to its output."""

    def __init__(
        self, mamba: Mamba, *, d_model: int, dropout: float, residual: bool, rngs: nnx.Rngs
    ):
        self.mamba, self.dropout, self.residual = mamba, dropout, residual
        self.norm = LayerNorm(d_model, rngs=rngs)
        self.ffn = FeedForward(d_model, dropout=dropout, inner_dropout=dropout, rngs=rngs)

    def __call__(
        self,
        x_BxLxD: Array,
        lengths_B: Array,
        *,
        gaps_BxL: Gaps = None,
        segment_ids_BxL: Array | None = None,
        dropout_keys: Keys = None,
    ) -> Array:
        """Return the layer's output at every position, (B, L, D)."""
        y_BxLxD = self.mamba(x_BxLxD, gaps_BxL=gaps_BxL, segment_ids_BxL=segment_ids_BxL)
        return self._after_mamba(y_BxLxD, x_BxLxD, dropout_keys)

    def readout(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None, dropout_keys: Keys = None
    ) -> Array:
        """Return the layer's output at the last item only, (B, D)."""
        last_B = lengths_B - 1
        y_BxD = self.mamba.readout(x_BxLxD, last_B, gaps_BxL=gaps_BxL)
        x_BxD = at_position(x_BxLxD, last_B, self.time_axis)
        return self._after_mamba(y_BxD, x_BxD, dropout_keys)

    def start(self, batch: int, max_len: int, dtype: DTypeLike) -> MambaState:
        """Return Mamba's state before the first position."""
        return self.mamba.start(batch, dtype)

    def step(
        self, state: MambaState, x_BxD: Array, position_B: Array | None, gaps_BxL: Gaps = None
    ) -> tuple[MambaState, Array]:
        """Take in one more position; return Mamba's state and the output there, (B, D)."""
        gap_B = None if gaps_BxL is None else gaps_BxL[:, 0]
        state, y_BxD = self.mamba.step(state, x_BxD, gap_B)
        return state, self._after_mamba(y_BxD, x_BxD, None)

    def _after_mamba(self, y: Array, x: Array, key: Keys) -> Array:
        keys = split_keys(key, 2)
        y = dropout(y, self.dropout, keys[0], self.time_axis)
        return self.ffn(self.norm(y + x if self.residual else y), dropout_keys=keys[1])


class Mamba4Rec(LayeredModel, CausalModel):
    """Embedding -> [Mamba -> feed-forward] x layers -> the vector at the last item.

    A single layer has no residual around Mamba, as in the authors' code. Sizes as for
    ``EchoMamba4Rec``.
    """

    sequence_parallel = True
    packs = True

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
        time_gaps: bool = False,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        self.dropout, self.norm = dropout, LayerNorm(d_model, rngs=rngs)
        self.time_gaps = time_gaps
        mamba: dict[str, Any] = {
            "d_state": d_state,
            "d_conv": d_conv,
            "expand": expand,
            "time_step_init": False,  # the authors' re-initialisation reaches Mamba here too
            "scan": scan,
            "time_gaps": time_gaps,
        }
        shared = {"d_model": d_model, "dropout": dropout, "residual": layers > 1, "rngs": rngs}
        self.layers = nnx.List(
            [CausalLayer(Mamba(d_model, **mamba, rngs=rngs), **shared) for _ in range(layers)]
        )

    def embed(self, x: Array, keys: Keys, position_B: Array | None = None) -> Array:
        """Return the items' normalised vectors; see ``LayeredModel.embed``."""
        return self.norm(dropout(x, self.dropout, keys, self.time_axis))
