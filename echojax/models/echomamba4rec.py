"""EchoMamba4Rec (arXiv 2406.02638), as published and corrected."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from echojax.models.base import SequenceModel
from echojax.models.layers import (
    GatedLinearUnit,
    Keys,
    SpectralFilter,
    dropout,
    layer_norm,
    split_keys,
)
from echojax.models.mamba import Mamba, MambaState, ReverseScanState
from echojax.models.positions import TimeSharded, at_position, mask, pad_to, within


@dataclass(frozen=True)
class Corrections:
    """What is done differently from the authors' code; with all off it is their exact function."""

    mask_padding: bool = True  # padding is zeroed before the filter and after it
    reverse_from_last: bool = True  # the backward scan starts at the last item, not at the padding
    join_both_ends: bool = True  # read forward at the last item and backward at the first
    time_step_init: bool = True  # time steps start at 0.001..0.1, not all at 0.69
    plain_depth: bool = True  # k layers hold k Mambas a direction, not k * k
    causal_filter: bool = False  # no position of the filter reads a later one


@dataclass(frozen=True)
class Components:
    """Which parts of a layer there are, for ablations."""

    filter: bool = True  # the FFT filter
    backward: bool = True  # the Mamba that reads from the end to the start
    glu: bool = True  # the gated linear unit


# Of the forward Mamba and of the backward one, where there is one.
StepState = tuple[MambaState, ReverseScanState | None]
# Of a causal filter and of each bidirectional Mamba.
LayerState = tuple[Array | None, list[StepState]]


class BidirectionalMamba(TimeSharded):
    """``LN(mamba_f(x) + x) + LN(mamba_b(x) + x)``, the second from the end to the start.

    Without a backward Mamba only the first term is there.
    """

    def __init__(
        self,
        forward: Mamba,
        backward: Mamba | None,
        *,
        d_model: int,
        dropout: float,
        corrections: Corrections,
        rngs: nnx.Rngs,
    ):
        self.forward, self.backward = forward, backward
        self.dropout, self.corrections = dropout, corrections
        self.norm_forward = layer_norm(d_model, epsilon=1e-5, rngs=rngs)
        self.norm_backward = layer_norm(d_model, epsilon=1e-5, rngs=rngs) if backward else None

    def __call__(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the sum of both directions at every position, (B, L, D)."""
        keys = split_keys(dropout_keys, 2)
        drop = partial(dropout, rate=self.dropout, time_axis=self.time_axis)
        ahead = self.norm_forward(drop(self.forward(x_BxLxD), keys_B=keys[0]) + x_BxLxD)
        if self.backward is None or self.norm_backward is None:
            return ahead
        back = self.backward(x_BxLxD, self._ends(lengths_B), reverse=True)
        return ahead + self.norm_backward(drop(back, keys_B=keys[1]) + x_BxLxD)

    def readout(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return one vector a history, (B, D).

        Forward is read at the last item; backward there too, as the authors do, or at the first
        item (``join_both_ends``), where it has read the whole history as well. Both are added to
        the last item: the oldest one says little about the next.
        """
        keys = split_keys(dropout_keys, 2)
        last_B = lengths_B - 1
        ahead = dropout(self.forward.readout(x_BxLxD, last_B), self.dropout, keys[0])
        last_BxD = at_position(x_BxLxD, last_B, self.time_axis)
        ahead = self.norm_forward(ahead + last_BxD)
        if self.backward is None or self.norm_backward is None:
            return ahead
        back_B = jnp.zeros_like(last_B) if self.corrections.join_both_ends else last_B
        back = self.backward.readout(x_BxLxD, back_B, self._ends(lengths_B), reverse=True)
        back = dropout(back, self.dropout, keys[1])
        return ahead + self.norm_backward(back + last_BxD)

    def readout_of_prefixes(
        self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None
    ) -> Array:
        """Return what ``readout`` gives for the prefix that ends at each position, (B, L, D).

        The backward Mamba is read at the first item.
        """
        keys = split_keys(dropout_keys, 2)
        drop = partial(dropout, rate=self.dropout, time_axis=self.time_axis)
        ahead = self.norm_forward(drop(self.forward(x_BxLxD), keys_B=keys[0]) + x_BxLxD)
        if self.backward is None or self.norm_backward is None:
            return ahead
        back = self.backward.readout_of_prefixes(x_BxLxD, lengths_B)
        return ahead + self.norm_backward(drop(back, keys_B=keys[1]) + x_BxLxD)

    def start(self, batch: int, dtype: jnp.dtype) -> StepState:
        """Return both directions' states before the first event."""
        back = self.backward and self.backward.start_reverse(batch, dtype)
        return self.forward.start(batch, dtype), back

    def step(self, state: StepState, x_BxD: Array) -> tuple[StepState, Array]:
        """Take in one more item; return the states and what ``readout`` gives after it, (B, D)."""
        ahead_state, back_state = state
        ahead_state, ahead_BxD = self.forward.step(ahead_state, x_BxD)
        y_BxD = self.norm_forward(ahead_BxD + x_BxD)
        if self.backward and self.norm_backward and back_state:
            back_state, back_BxD = self.backward.step_reverse(back_state, x_BxD)
            y_BxD = y_BxD + self.norm_backward(back_BxD + x_BxD)
        return (ahead_state, back_state), y_BxD

    def _ends(self, lengths_B: Array) -> Array | None:
        return lengths_B if self.corrections.reverse_from_last else None


class BidirectionalLayer(TimeSharded):
    """Filter -> one or more bidirectional Mambas -> gated linear unit; ``None`` leaves one out."""

    def __init__(
        self,
        spectral_filter: SpectralFilter | None,
        mambas: list[BidirectionalMamba],
        glu: GatedLinearUnit | None,
        *,
        corrections: Corrections,
    ):
        self.filter, self.mambas, self.glu = spectral_filter, nnx.List(mambas), glu
        self.corrections = corrections

    def __call__(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the layer's output at every position, (B, L, D)."""
        keys = split_keys(dropout_keys, len(self.mambas) + 2)
        x_BxLxD = self._filter(x_BxLxD, lengths_B, keys[0])
        for mamba, key in zip(self.mambas, keys[1:-1], strict=True):
            x_BxLxD = mamba(x_BxLxD, lengths_B, dropout_keys=key)
        return self.glu(x_BxLxD, dropout_keys=keys[-1]) if self.glu else x_BxLxD

    def readout(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the layer's output at the read-out only, (B, D)."""
        keys = split_keys(dropout_keys, len(self.mambas) + 2)
        x_BxLxD = self._filter(x_BxLxD, lengths_B, keys[0])
        for mamba, key in zip(self.mambas[:-1], keys[1:-2], strict=True):
            x_BxLxD = mamba(x_BxLxD, lengths_B, dropout_keys=key)
        user_BxD = self.mambas[-1].readout(x_BxLxD, lengths_B, dropout_keys=keys[-2])
        return self.glu(user_BxD, dropout_keys=keys[-1]) if self.glu else user_BxD

    def readout_of_prefixes(
        self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None
    ) -> Array:
        """Return what ``readout`` gives for the prefix that ends at each position, (B, L, D)."""
        keys = split_keys(dropout_keys, len(self.mambas) + 2)
        x_BxLxD = self._filter(x_BxLxD, lengths_B, keys[0])
        for mamba, key in zip(self.mambas, keys[1:-1], strict=True):
            x_BxLxD = mamba.readout_of_prefixes(x_BxLxD, lengths_B, dropout_keys=key)
        return self.glu(x_BxLxD, dropout_keys=keys[-1]) if self.glu else x_BxLxD

    def start(self, batch: int, dtype: jnp.dtype) -> LayerState:
        """Return the states of the filter and the Mambas before the first event."""
        ring = self.filter.start(batch, dtype) if self.filter else None
        return ring, [mamba.start(batch, dtype) for mamba in self.mambas]

    def step(self, state: LayerState, x_BxD: Array) -> tuple[LayerState, Array]:
        """Take in one more item; return the states and what ``readout`` gives after it, (B, D)."""
        ring, states = state
        if self.filter and ring is not None:
            ring, x_BxD = self.filter.step(ring, x_BxD)
        after = []
        for mamba, before in zip(self.mambas, states, strict=True):
            mamba_state, x_BxD = mamba.step(before, x_BxD)
            after.append(mamba_state)
        return (ring, after), self.glu(x_BxD) if self.glu else x_BxD

    def _filter(self, x_BxLxD: Array, lengths_B: Array, key: Keys) -> Array:
        length = x_BxLxD.shape[1]
        item_BxLx1 = mask(within(lengths_B, length, self.time_axis), length)[..., None]
        if self.corrections.mask_padding:
            x_BxLxD = jnp.where(item_BxLx1, x_BxLxD, 0)
        if self.filter:
            x_BxLxD = self.filter(x_BxLxD, dropout_keys=key)
        return jnp.where(item_BxLx1, x_BxLxD, 0) if self.corrections.mask_padding else x_BxLxD


VARIANTS = {
    "echojax": Corrections(),
    "causal": Corrections(causal_filter=True),
    "official": Corrections(*[False] * 6),
}
ALL_COMPONENTS = Components()


class EchoMamba4Rec(SequenceModel):
    """Embedding -> [FFT filter -> bidirectional Mamba -> GLU] x layers -> one vector.

    Of the last layer only the read-out position is computed: nothing else reaches the scores.

    Dropout is everywhere; ``corrections.plain_depth`` says how many Mambas each layer holds.
    """

    objectives = ("prefixes", "all-positions")
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
                SpectralFilter(
                    max_len,
                    d_model,
                    causal=corrections.causal_filter,
                    dropout=dropout,
                    rngs=rngs,
                )
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
        self.not_causal = not_causal(corrections, components, layers)

    def arranged(self, item_ids_BxL: Array, lengths_B: Array) -> tuple[Array, Array]:
        """Return windows of all ``max_len`` positions if padding is read."""
        return pad_to(item_ids_BxL, self.max_len) if self.reads_padding else item_ids_BxL, lengths_B

    def read_out(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return one vector a history, (B, D); see ``SequenceModel.read_out``."""
        keys = split_keys(dropout_keys, len(self.layers) + 1)
        x_BxLxD = self.norm(dropout(x_BxLxD, self.dropout, keys[0], self.time_axis))
        for layer, key in zip(self.layers[:-1], keys[1:-1], strict=True):
            x_BxLxD = layer(x_BxLxD, lengths_B, dropout_keys=key)
        return self.layers[-1].readout(x_BxLxD, lengths_B, dropout_keys=keys[-1])

    def encode_all(
        self, item_ids_BxL: Array, lengths_B: Array, *, dropout_keys: Keys = None
    ) -> Array:
        """Return ``encode`` of the prefix that ends at each position, (B, L, D), in one pass.

        Raises:
            ValueError: a later event changes what earlier positions read (``not_causal``).
        """
        x_BxLxD, _ = self.lookup(item_ids_BxL)
        return self.read_all(x_BxLxD, jnp.asarray(lengths_B), dropout_keys=dropout_keys)

    def read_all(self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None) -> Array:
        """Return ``encode_all``'s vectors, (B, L, D), from those of the items."""
        if self.not_causal:
            raise ValueError(f"only encode one prefix at a time: {self.not_causal}")
        keys = split_keys(dropout_keys, len(self.layers) + 1)
        x_BxLxD = self.norm(dropout(x_BxLxD, self.dropout, keys[0], self.time_axis))
        for layer, key in zip(self.layers, keys[1:], strict=True):
            x_BxLxD = layer.readout_of_prefixes(x_BxLxD, lengths_B, dropout_keys=key)
        return x_BxLxD

    def start(self, batch: int) -> list[LayerState]:
        """Return each layer's states before the first event."""
        return [layer.start(batch, self.item_embedding[...].dtype) for layer in self.layers]

    def step(self, states: list[LayerState], item_B: Array) -> tuple[list[LayerState], Array]:
        """Take in one more item; return the states and the vector after it, (B, D)."""
        x_BxD, after = self.norm(self.lookup_one(item_B)), []
        for layer, before in zip(self.layers, states, strict=True):
            state, x_BxD = layer.step(before, x_BxD)
            after.append(state)
        return after, x_BxD


def not_causal(corrections: Corrections, components: Components, layers: int) -> str | None:
    """Return why one more event changes more than the newest position; ``None`` where it does not.

    Otherwise ``encode_all`` reads every prefix in one pass, and ``step`` one event at a time.
    """
    if components.filter and not corrections.causal_filter:
        return "its filter changes every position with every event"
    if not components.backward:
        return None
    if layers > 1:
        return "its backward Mamba changes every position with every event"
    if not (corrections.join_both_ends and corrections.reverse_from_last):
        return "its backward Mamba does not run from the last item to the first"
    return None
