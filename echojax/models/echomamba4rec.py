"""EchoMamba4Rec (arXiv 2406.02638), as published and corrected."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.base import SequenceModel
from echojax.models.bidirectional import (
    BidirectionalLayer,
    BidirectionalMamba,
    Components,
    Corrections,
    StepState,
)
from echojax.models.dropout import dropout, split_keys
from echojax.models.glu import GatedLinearUnit
from echojax.models.layer_norm import layer_norm
from echojax.models.mamba import Mamba
from echojax.models.positions import pad_to
from echojax.models.spectral_filter import SpectralFilter

VARIANTS = {
    "echojax": Corrections(),
    "official": Corrections(*[False] * 5),
}
ALL_COMPONENTS = Components()


class EchoMamba4Rec(SequenceModel):
    """Embedding -> [FFT filter -> bidirectional Mamba -> GLU] x layers -> one vector.

    Of the last layer only the read-out position is computed: nothing else reaches the scores.

    Args:
        num_items: V, with padding as item 0.
        d_model: D.
        layers: how many layers; ``corrections.plain_depth`` says how many Mambas each holds.
        d_state: N, states a channel.
        d_conv: taps of Mamba's convolution.
        expand: Mamba's inner channels E over D.
        dropout: rate, everywhere.
        max_len: L, how many of the newest items are read.
        corrections: what differs from the authors' code.
        components: which components of a layer there are.
        scan: implementation of the selective scan.
        rngs: streams of random keys for the initial parameters.
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
        corrections: Corrections = VARIANTS["echojax"],
        components: Components = ALL_COMPONENTS,
        scan: str = "auto",
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        self.dropout, self.norm = dropout, layer_norm(d_model, rngs=rngs)
        self.reads_padding = not (corrections.mask_padding and corrections.reverse_from_last)
        shared: dict[str, Any] = {
            "d_model": d_model,
            "dropout": dropout,
            "corrections": corrections,
            "rngs": rngs,
        }

        def mamba() -> Mamba:
            return Mamba(
                d_model,
                d_state=d_state,
                d_conv=d_conv,
                expand=expand,
                time_step_init=corrections.time_step_init,
                scan=scan,
                rngs=rngs,
            )

        def layer() -> BidirectionalLayer:
            depth = 1 if corrections.plain_depth else layers
            return BidirectionalLayer(
                SpectralFilter(max_len, d_model, dropout=dropout, rngs=rngs)
                if components.filter
                else None,
                [
                    BidirectionalMamba(mamba(), mamba() if components.backward else None, **shared)
                    for _ in range(depth)
                ],
                GatedLinearUnit(d_model, dropout=dropout, rngs=rngs) if components.glu else None,
                corrections=corrections,
            )

        self.layers = nnx.List([layer() for _ in range(layers)])

    def encode(
        self,
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Return one vector a history, (B, D); see ``SequenceModel.encode``."""
        lengths_B = jnp.asarray(lengths_B)
        keys = split_keys(dropout_keys, len(self.layers) + 1)
        x_BxLxD = self.embed(item_ids_BxL, keys[0])
        for layer, key in zip(self.layers[:-1], keys[1:-1], strict=True):
            x_BxLxD = layer(x_BxLxD, lengths_B, dropout_keys=key)
        return self.layers[-1].readout(x_BxLxD, lengths_B, dropout_keys=keys[-1])

    def no_steps(self) -> str | None:
        """Return why ``step`` cannot stand for ``encode``; ``None`` where it can."""
        mambas = [mamba for layer in self.layers for mamba in layer.mambas]
        if any(layer.filter for layer in self.layers):
            return "its filter changes every position with every event"
        if not any(mamba.backward for mamba in mambas):
            return None
        if len(mambas) > 1:
            return "its backward Mamba changes every position with every event"
        corrections = mambas[0].corrections
        if not (corrections.join_both_ends and corrections.reverse_from_last):
            return "its backward Mamba does not run from the last item to the first"
        return None

    def start(self, batch: int) -> list[StepState]:
        """Return each Mamba's states before the first event."""
        dtype = self.item_embedding[...].dtype
        return [mamba.start(batch, dtype) for layer in self.layers for mamba in layer.mambas]

    def step(self, states: list[StepState], item_B: jax.Array) -> tuple[list[StepState], jax.Array]:
        """Take in one more item; return the states and the vector behind it, (B, D)."""
        x_BxD = self.norm(self.lookup(item_B[:, None])[:, 0])
        before, behind = iter(states), []
        for layer in self.layers:
            for mamba in layer.mambas:
                state, x_BxD = mamba.step(next(before), x_BxD)
                behind.append(state)
            x_BxD = layer.glu(x_BxD) if layer.glu else x_BxD
        return behind, x_BxD

    def embed(self, item_ids_BxL: jax.Array, dropout_keys: jax.Array | None) -> jax.Array:
        """Return LayerNorm(dropout(embedding)), (B, L, D), of all max_len if padding is read."""
        if self.reads_padding:
            item_ids_BxL = pad_to(item_ids_BxL, self.max_len)
        x_BxLxD = self.lookup(item_ids_BxL)
        return self.norm(dropout(x_BxLxD, self.dropout, dropout_keys, self.time_axis))
