"""The time steps that a model's Mambas take: how far their states move at each event.

A step ``t = softplus(dt_proj(dt) + bias)`` is the time that an event lasts for a channel: states
decay by ``exp(t A)`` and take in ``t B u`` (EchoMamba4Rec section 3.3). Short steps keep what was
known, long ones replace it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from echojax.insight.modules import Recorder, mambas
from echojax.models import SequenceModel
from echojax.models.positions import mask

# Bins of log10(t); what lies outside is counted in the first or the last.
_LOWEST, _HIGHEST, _A_DECADE = -6, 3, 10
_BINS = (_HIGHEST - _LOWEST) * _A_DECADE


class Counted(NamedTuple):
    """Time steps counted by bin, int32 (K,), and summed by channel, (E,)."""

    count_K: jax.Array
    sum_E: jax.Array


class TimeSteps(NamedTuple):
    """The time steps of one Mamba at the items of a sample; padding is left out.

    Args:
        distribution_Kx2: time steps in rising order, evenly spaced by logarithm, and the share of
            all steps (channels x items) that is closest to each.
        mean_E: mean step of each channel.
    """

    distribution_Kx2: np.ndarray
    mean_E: np.ndarray


def count_time_steps(model: SequenceModel, lengths_B: jax.Array) -> dict[str, Counted]:
    """Return a dictionary that gets each Mamba's time steps, by its name, when ``model`` encodes.

    Args:
        model: merged for the traced function at hand; it is changed.
        lengths_B: of the histories that it will encode, right padded.
    """
    counted: dict[str, Counted] = {}

    def keep(name: str, bias_E: jax.Array, delta_BxLxE: jax.Array) -> None:
        counted[name] = _count(jax.nn.softplus(delta_BxLxE + bias_E), lengths_B)

    for name, mamba in mambas(model):
        mamba.dt_proj = Recorder(mamba.dt_proj, partial(keep, name, mamba.dt_bias_E[...]))
    return counted


def time_steps_of(counted: Counted, items: int) -> TimeSteps:
    """Return what was counted at ``items`` items, padding left out."""
    count_K = np.asarray(counted.count_K)
    step_K = 10 ** (_LOWEST + (np.arange(_BINS) + 0.5) / _A_DECADE)
    distribution_Kx2 = np.stack([step_K, count_K / count_K.sum()], axis=1)
    return TimeSteps(distribution_Kx2, np.asarray(counted.sum_E) / items)


def _count(t_BxLxE: jax.Array, lengths_B: jax.Array) -> Counted:
    inside_BxLx1 = mask(lengths_B, t_BxLxE.shape[1])[..., None]
    bin_BxLxE = jnp.floor((jnp.log10(t_BxLxE) - _LOWEST) * _A_DECADE)
    bin_BxLxE = jnp.clip(bin_BxLxE, 0, _BINS - 1).astype(jnp.int32)
    inside_BxLxE = jnp.broadcast_to(inside_BxLx1, t_BxLxE.shape).astype(jnp.int32)
    return Counted(
        jnp.zeros(_BINS, jnp.int32).at[bin_BxLxE].add(inside_BxLxE),
        jnp.sum(jnp.where(inside_BxLx1, t_BxLxE, 0), axis=(0, 1)),
    )
