"""One layer of EchoMamba4Rec: filter, Mamba in both directions, gated linear unit."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models import first_item_state, mamba_state
from echojax.models.dropout import dropout, split_keys
from echojax.models.first_item_state import FirstItemState
from echojax.models.glu import GatedLinearUnit
from echojax.models.layer_norm import layer_norm
from echojax.models.mamba import Mamba
from echojax.models.mamba_state import MambaState
from echojax.models.positions import mask
from echojax.models.sequence_shards import NO_AXIS, at_item, within
from echojax.models.spectral_filter import SpectralFilter


@dataclass(frozen=True)
class Corrections:
    """What is done differently from the authors' code; with all off it is their exact function."""

    mask_padding: bool = True  # padding is zeroed before the filter and behind it
    reverse_from_last: bool = True  # the backward scan starts at the last item, not at the padding
    join_both_ends: bool = True  # read forward at the last item and backward at the first
    time_step_init: bool = True  # time steps start at 0.001..0.1, not all at 0.69
    plain_depth: bool = True  # k layers hold k Mambas a direction, not k * k


@dataclass(frozen=True)
class Components:
    """Which parts of a layer there are, for ablations."""

    filter: bool = True  # the FFT filter
    backward: bool = True  # the Mamba that reads from the end to the start
    glu: bool = True  # the gated linear unit


# Of the forward Mamba and of the backward one, where there is one.
StepState = tuple[MambaState, FirstItemState | None]


class BidirectionalMamba(nnx.Module):
    """``LN(mamba_f(x) + x) + LN(mamba_b(x) + x)``, the second from the end to the start.

    Without a backward Mamba the first term stands alone.
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
        self.dropout, self.corrections, self.time_axis = dropout, corrections, NO_AXIS
        self.norm_forward = layer_norm(d_model, epsilon=1e-5, rngs=rngs)
        self.norm_backward = layer_norm(d_model, epsilon=1e-5, rngs=rngs) if backward else None

    def __call__(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the sum of both directions at every position, (B, L, D)."""
        keys = split_keys(dropout_keys, 2)
        drop = partial(dropout, rate=self.dropout, time_axis=self.time_axis)
        ahead = self.norm_forward(drop(self.forward(x_BxLxD), keys_B=keys[0]) + x_BxLxD)
        if self.backward is None or self.norm_backward is None:
            return ahead
        back = self.backward(x_BxLxD, self._ends(lengths_B), reverse=True)
        return ahead + self.norm_backward(drop(back, keys_B=keys[1]) + x_BxLxD)

    def readout(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return one vector a history, (B, D).

        Forward is read at the last item; backward there too, as the authors do, or at the first
        item (``join_both_ends``), where it has read the whole history as well. Both are added to
        the last item: the oldest one says little about the next.
        """
        keys = split_keys(dropout_keys, 2)
        last_B = lengths_B - 1
        ahead = dropout(self.forward.readout(x_BxLxD, last_B), self.dropout, keys[0])
        last_BxD = at_item(x_BxLxD, last_B, self.time_axis)
        ahead = self.norm_forward(ahead + last_BxD)
        if self.backward is None or self.norm_backward is None:
            return ahead
        back_B = jnp.zeros_like(last_B) if self.corrections.join_both_ends else last_B
        back = self.backward.readout(x_BxLxD, back_B, self._ends(lengths_B), reverse=True)
        back = dropout(back, self.dropout, keys[1])
        return ahead + self.norm_backward(back + last_BxD)

    def start(self, batch: int, dtype: jnp.dtype) -> StepState:
        """Return both directions' states before the first event."""
        back = self.backward and first_item_state.start(self.backward, batch, dtype)
        return mamba_state.start(self.forward, batch, dtype), back

    def step(self, state: StepState, x_BxD: jax.Array) -> tuple[StepState, jax.Array]:
        """Take in one more item; return the states and what ``readout`` gives behind it, (B, D)."""
        ahead_state, back_state = state
        ahead_state, ahead_BxD = mamba_state.step(self.forward, ahead_state, x_BxD)
        y_BxD = self.norm_forward(ahead_BxD + x_BxD)
        if self.backward and self.norm_backward and back_state:
            back_state, back_BxD = first_item_state.step(self.backward, back_state, x_BxD)
            y_BxD = y_BxD + self.norm_backward(back_BxD + x_BxD)
        return (ahead_state, back_state), y_BxD

    def _ends(self, lengths_B: jax.Array) -> jax.Array | None:
        return lengths_B if self.corrections.reverse_from_last else None


class BidirectionalLayer(nnx.Module):
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
        self.corrections, self.time_axis = corrections, NO_AXIS

    def __call__(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the layer's output at every position, (B, L, D)."""
        keys = split_keys(dropout_keys, len(self.mambas) + 2)
        x_BxLxD = self._filter(x_BxLxD, lengths_B, keys[0])
        for mamba, key in zip(self.mambas, keys[1:-1], strict=True):
            x_BxLxD = mamba(x_BxLxD, lengths_B, dropout_keys=key)
        return self.glu(x_BxLxD, dropout_keys=keys[-1]) if self.glu else x_BxLxD

    def readout(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Return the layer's output at the read-out alone, (B, D)."""
        keys = split_keys(dropout_keys, len(self.mambas) + 2)
        x_BxLxD = self._filter(x_BxLxD, lengths_B, keys[0])
        for mamba, key in zip(self.mambas[:-1], keys[1:-2], strict=True):
            x_BxLxD = mamba(x_BxLxD, lengths_B, dropout_keys=key)
        user_BxD = self.mambas[-1].readout(x_BxLxD, lengths_B, dropout_keys=keys[-2])
        return self.glu(user_BxD, dropout_keys=keys[-1]) if self.glu else user_BxD

    def _filter(self, x_BxLxD: jax.Array, lengths_B: jax.Array, key: jax.Array | None) -> jax.Array:
        length = x_BxLxD.shape[1]
        item_BxLx1 = mask(within(lengths_B, length, self.time_axis), length)[..., None]
        if self.corrections.mask_padding:
            x_BxLxD = jnp.where(item_BxLx1, x_BxLxD, 0)
        if self.filter:
            x_BxLxD = self.filter(x_BxLxD, dropout_keys=key)
        return jnp.where(item_BxLx1, x_BxLxD, 0) if self.corrections.mask_padding else x_BxLxD
