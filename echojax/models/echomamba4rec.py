"""EchoMamba4Rec (arXiv 2406.02638), as published and corrected."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from echojax.errors import UserError
from echojax.models.base import CausalModel, LayeredModel
from echojax.models.layers import (
    Gaps,
    GatedLinearUnit,
    Keys,
    LayerNorm,
    SpectralFilter,
    dropout,
    split_keys,
)
from echojax.models.mamba import Mamba, MambaState, ReverseScanState
from echojax.models.positions import TimeSharded, at_position, mask, pad_to, within


@dataclass(frozen=True)
class Corrections:
    """Differences from the authors' code; without any, the model is exactly their function."""

    mask_padding: bool = True  # padding is set to zero before and after the filter
    reverse_from_last: bool = True  # the backward scan starts at the last item, not at the padding
    join_both_ends: bool = True  # the backward Mamba is read at the first item, not at the last
    time_step_init: bool = True  # initial time steps are in 0.001..0.1, not all 0.69
    plain_depth: bool = True  # k layers have k Mambas in each direction, not k * k
    causal_filter: bool = False  # no position of the filter reads a later one


@dataclass(frozen=True)
class Components:
    """The parts that a layer has, for ablations."""

    filter: bool = True  # the FFT filter
    backward: bool = True  # the Mamba that runs from the last item to the first
    glu: bool = True  # the gated linear unit


# The states of the forward Mamba and of the backward one, if there is one.
StepState = tuple[MambaState, ReverseScanState | None]
# The states of the filter and of each bidirectional Mamba.
LayerState = tuple[Any, list[StepState]]


class Identity(nnx.Module):
    """Replaces a component that is left out."""

    def __call__(self, x: Array, *, dropout_keys: Keys = None) -> Array:
        """Return ``x``."""
        return x

    def start(self, batch: int, dtype: DTypeLike) -> None:
        """Return no state."""

    def step(self, state: None, x_BxD: Array) -> tuple[None, Array]:
        """Return no state and ``x``."""
        return None, x_BxD


class BidirectionalMamba(TimeSharded):
    """``LN(mamba_f(x) + x) + LN(mamba_b(x) + x)``, the second Mamba from the end to the start.

    Without a backward Mamba there is only the first term.
    """

    def __init__(
        self,
        forward: Mamba,
        backward: Mamba | None,
        *,
        d_model: int,
        max_len: int,
        dropout: float,
        corrections: Corrections,
        rngs: nnx.Rngs,
    ):
        self.forward, self.backward, self.max_len = forward, backward, max_len
        self.dropout, self.corrections = dropout, corrections
        self.norm_forward = LayerNorm(d_model, epsilon=1e-5, rngs=rngs)
        self.norm_backward = LayerNorm(d_model, epsilon=1e-5, rngs=rngs) if backward else None

    def __call__(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None, dropout_keys: Keys = None
    ) -> Array:
        """Return the sum of both directions at every position, (B, L, D)."""

        def back(mamba: Mamba) -> Array:
            return mamba(x_BxLxD, self._ends(lengths_B), gaps_BxL=gaps_BxL, reverse=True)

        return self._sum(self.forward(x_BxLxD, gaps_BxL=gaps_BxL), back, x_BxLxD, dropout_keys)

    def readout(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None, dropout_keys: Keys = None
    ) -> Array:
        """Return one vector per history, (B, D).

        The forward Mamba is read at the last item. The backward Mamba is also read there, as in the
        authors' code, or at the first item (``join_both_ends``), where it has read the whole
        history. Both outputs are added to the vector of the last item, because the first item says
        little about the next one.
        """
        last_B = lengths_B - 1
        back_B = jnp.zeros_like(last_B) if self.corrections.join_both_ends else last_B

        def back(mamba: Mamba) -> Array:
            return mamba.readout(
                x_BxLxD, back_B, self._ends(lengths_B), gaps_BxL=gaps_BxL, reverse=True
            )

        ahead_BxD = self.forward.readout(x_BxLxD, last_B, gaps_BxL=gaps_BxL)
        last_BxD = at_position(x_BxLxD, last_B, self.time_axis)
        return self._sum(ahead_BxD, back, last_BxD, dropout_keys)

    def readout_of_prefixes(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None, dropout_keys: Keys = None
    ) -> Array:
        """Return what ``readout`` gives for the prefix that ends at each position, (B, L, D).

        The backward Mamba is read at the first item.
        """

        def back(mamba: Mamba) -> Array:
            return mamba.readout_of_prefixes(x_BxLxD, lengths_B, gaps_BxL=gaps_BxL)

        return self._sum(self.forward(x_BxLxD, gaps_BxL=gaps_BxL), back, x_BxLxD, dropout_keys)

    def start(self, batch: int, dtype: DTypeLike) -> StepState:
        """Return the states of both directions before the first event."""
        back = self.backward and self.backward.start_reverse(batch, dtype)
        return self.forward.start(batch, dtype), back

    def step(
        self, state: StepState, x_BxD: Array, gap_B: Array | None = None
    ) -> tuple[StepState, Array]:
        """Take in one more item; return the states and the ``readout`` after it, (B, D)."""
        ahead_state, ahead_BxD = self.forward.step(state[0], x_BxD, gap_B)
        back_state = state[1]

        def back(mamba: Mamba) -> Array:
            nonlocal back_state
            assert back_state is not None
            back_state, back_BxD = mamba.step_reverse(back_state, x_BxD, gap_B)
            return back_BxD

        y_BxD = self._sum(ahead_BxD, back, x_BxD, None)
        return (ahead_state, back_state), y_BxD

    def _sum(self, ahead: Array, back: Callable[[Mamba], Array], x: Array, keys: Keys) -> Array:
        """Add the input to the output of each direction, normalise both, and return their sum."""
        # ``back`` is called in between, because the order decides the last bits of gradients.
        key_ahead, key_back = split_keys(keys, 2)
        y = self.norm_forward(dropout(ahead, self.dropout, key_ahead, self.time_axis) + x)
        if self.backward is None or self.norm_backward is None:
            return y
        dropped = dropout(back(self.backward), self.dropout, key_back, self.time_axis)
        return y + self.norm_backward(dropped + x)

    def _ends(self, lengths_B: Array) -> Array | None:
        """Return where the backward scan starts in each row; ``None``: at the end of the window."""
        if self.corrections.reverse_from_last:
            return lengths_B
        # The shards of a window together may have more positions than the window.
        return None if self.time_axis is None else jnp.full_like(lengths_B, self.max_len)


class BidirectionalLayer(TimeSharded):
    """Filter -> one or more bidirectional Mambas -> gated linear unit."""

    def __init__(
        self,
        spectral_filter: SpectralFilter | Identity,
        mambas: list[BidirectionalMamba],
        glu: GatedLinearUnit | Identity,
        *,
        mask_padding: bool,
    ):
        self.filter, self.mambas, self.glu = spectral_filter, nnx.List(mambas), glu
        self.mask_padding = mask_padding

    def __call__(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None, dropout_keys: Keys = None
    ) -> Array:
        """Return the layer's output at every position, (B, L, D)."""
        return self._apply(self.mambas[-1], x_BxLxD, lengths_B, gaps_BxL, dropout_keys)

    def readout(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None, dropout_keys: Keys = None
    ) -> Array:
        """Return the layer's output at the read-out only, (B, D)."""
        return self._apply(self.mambas[-1].readout, x_BxLxD, lengths_B, gaps_BxL, dropout_keys)

    def readout_of_prefixes(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None, dropout_keys: Keys = None
    ) -> Array:
        """Return what ``readout`` gives for the prefix that ends at each position, (B, L, D)."""
        last = self.mambas[-1].readout_of_prefixes
        return self._apply(last, x_BxLxD, lengths_B, gaps_BxL, dropout_keys)

    def start(self, batch: int, max_len: int, dtype: DTypeLike) -> LayerState:
        """Return the states of the filter and the Mambas before the first event."""
        return self.filter.start(batch, dtype), [one.start(batch, dtype) for one in self.mambas]

    def step(
        self, state: LayerState, x_BxD: Array, position_B: Array | None, gaps_BxL: Gaps = None
    ) -> tuple[LayerState, Array]:
        """Take in one more item; return the states and the ``readout`` after it, (B, D)."""
        ring, x_BxD = self.filter.step(state[0], x_BxD)
        gap_B, after = None if gaps_BxL is None else gaps_BxL[:, 0], []
        for mamba, before in zip(self.mambas, state[1], strict=True):
            mamba_state, x_BxD = mamba.step(before, x_BxD, gap_B)
            after.append(mamba_state)
        return (ring, after), self.glu(x_BxD)

    def _apply(
        self,
        last: Callable[..., Array],
        x_BxLxD: Array,
        lengths_B: Array,
        gaps_BxL: Gaps,
        dropout_keys: Keys,
    ) -> Array:
        """Return the layer's output, where ``last`` is what the last Mamba computes."""
        filter_key, *keys, glu_key = split_keys(dropout_keys, len(self.mambas) + 2)
        x = self.filtered(x_BxLxD, lengths_B, filter_key)
        for mamba, key in zip([*self.mambas[:-1], last], keys, strict=True):
            x = mamba(x, lengths_B, gaps_BxL=gaps_BxL, dropout_keys=key)
        return self.glu(x, dropout_keys=glu_key)

    def filtered(self, x_BxLxD: Array, lengths_B: Array, key: Keys = None) -> Array:
        """Return the input of the first Mamba, (B, L, D)."""
        if not self.mask_padding:
            return self.filter(x_BxLxD, dropout_keys=key)
        length = x_BxLxD.shape[1]
        item_BxLx1 = mask(within(lengths_B, length, self.time_axis), length)[..., None]
        filtered_BxLxD = self.filter(jnp.where(item_BxLx1, x_BxLxD, 0), dropout_keys=key)
        return jnp.where(item_BxLx1, filtered_BxLxD, 0)


VARIANTS = {
    "echojax": Corrections(),
    "causal": Corrections(causal_filter=True),
    "official": Corrections(*[False] * 6),
}
# Variants by names of models, as in recipes and measurements.
VARIANT_OF_NAME = {f"echomamba4rec-{variant}": variant for variant in VARIANTS}
ALL_COMPONENTS = Components()


class EchoMamba4Rec(LayeredModel, CausalModel):
    """Embedding -> [FFT filter -> bidirectional Mamba -> GLU] x layers -> one vector.

    Dropout is applied in all of them. ``corrections.plain_depth`` decides how many Mambas each
    layer has.
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
        time_gaps: bool = False,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_items, d_model=d_model, max_len=max_len, rngs=rngs)
        if time_gaps:
            check_time_gaps(corrections, components, d_conv)
        self.time_gaps = time_gaps
        self.dropout, self.norm = dropout, LayerNorm(d_model, rngs=rngs)
        self.reads_padding = not (corrections.mask_padding and corrections.reverse_from_last)
        self.not_causal = not_causal(corrections, components, layers)
        shared: dict[str, Any] = {"dropout": dropout, "rngs": rngs}

        def mamba() -> Mamba:
            return Mamba(
                d_model,
                d_state=d_state,
                d_conv=d_conv,
                expand=expand,
                time_step_init=corrections.time_step_init,
                scan=scan,
                time_gaps=time_gaps,
                rngs=rngs,
            )

        def pair() -> BidirectionalMamba:
            both = mamba(), mamba() if components.backward else None
            return BidirectionalMamba(
                *both, d_model=d_model, max_len=max_len, corrections=corrections, **shared
            )

        def layer() -> BidirectionalLayer:
            spectral_filter = (
                SpectralFilter(max_len, d_model, causal=corrections.causal_filter, **shared)
                if components.filter
                else Identity()
            )
            pairs = [pair() for _ in range(1 if corrections.plain_depth else layers)]
            glu = GatedLinearUnit(d_model, **shared) if components.glu else Identity()
            return BidirectionalLayer(
                spectral_filter, pairs, glu, mask_padding=corrections.mask_padding
            )

        self.layers = nnx.List([layer() for _ in range(layers)])

    def arranged(self, item_ids_BxL: Array, lengths_B: Array) -> tuple[Array, Array]:
        """Return histories padded to ``max_len`` if the model reads padding.

        Shards of histories are not padded: together they have ``max_len`` positions or more.
        """
        if self.reads_padding and self.time_axis is None:
            item_ids_BxL = pad_to(item_ids_BxL, self.max_len)
        return item_ids_BxL, lengths_B

    def embed(self, x: Array, keys: Keys, position_B: Array | None = None) -> Array:
        """Return the items' normalised vectors; see ``LayeredModel.embed``."""
        return self.norm(dropout(x, self.dropout, keys, self.time_axis))

    def read_all(
        self, x_BxLxD: Array, lengths_B: Array, *, dropout_keys: Keys = None, **times: Array
    ) -> Array:
        """Return ``encode_all``'s vectors, (B, L, D), from those of the items."""
        if self.not_causal:
            raise ValueError(f"only encode one prefix at a time: {self.not_causal}")
        # Of several layers, none has a backward Mamba: those below the last are read as ever.
        x_BxLxD, key = self._below_last(x_BxLxD, lengths_B, dropout_keys, times)
        last = self.layers[-1]
        return last.readout_of_prefixes(x_BxLxD, lengths_B, dropout_keys=key, **times)


def check_time_gaps(corrections: Corrections, components: Components, d_conv: int) -> None:
    """Raise ``UserError`` if the model cannot read the times between events."""
    if not (corrections.mask_padding and corrections.reverse_from_last):
        raise UserError(
            "--time-gaps is for an EchoMamba4Rec that reads no padding, which has no times; use "
            "--variant echojax or causal"
        )
    if components.backward and d_conv < 2:
        raise UserError(
            "--time-gaps with a backward Mamba needs --d-conv 2 or more: the time after an event "
            "is known one event later"
        )


def not_causal(corrections: Corrections, components: Components, layers: int) -> str | None:
    """Return why a new event changes the vectors of earlier positions; ``None`` if it does not.

    With ``None``, ``encode_all`` encodes all prefixes in one pass, and ``step`` takes one event at
    a time.
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
