"""The time steps dt of a model's Mambas, and how many events their states remember.

``dt = softplus(dt_proj(...) + bias)`` is the time step of a channel at an event: the states decay
by ``exp(dt A)``, and ``dt B u`` is added (EchoMamba4Rec section 3.3). With a small dt a state keeps
earlier events, with a large one the new event replaces them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from echojax.analysis.attribution import of_kind
from echojax.models import SequenceModel
from echojax.models.echomamba4rec import BidirectionalMamba
from echojax.models.mamba import Mamba
from echojax.models.positions import mask

# Bins of log10(dt); values outside are counted in the first or the last bin.
_LOWEST, _HIGHEST, _A_DECADE = -6, 3, 10
_BINS = (_HIGHEST - _LOWEST) * _A_DECADE


class DtCounts(NamedTuple):
    """dt counted by bin, int32 (K,), and summed by channel, (E,); padding is left out."""

    count_K: jax.Array
    sum_E: jax.Array

    def distribution(self) -> np.ndarray:
        """Return dt in rising order, evenly spaced by logarithm, and the share closest to each."""
        count_K = np.asarray(self.count_K)
        dt_K = 10 ** (_LOWEST + (np.arange(_BINS) + 0.5) / _A_DECADE)
        return np.stack([dt_K, count_K / count_K.sum()], axis=1)


def mambas(model: SequenceModel) -> Iterator[tuple[str, Mamba]]:
    """Yield each Mamba with its name: "0/forward", "0/backward", "1/forward" and so on.

    The number counts the Mambas of one direction, from the first layer on. In a model of one
    direction, all of them are forward Mambas.
    """
    pairs = of_kind(model, BidirectionalMamba)
    if not pairs:
        yield from ((f"{i}/forward", mamba) for i, mamba in enumerate(of_kind(model, Mamba)))
    for i, pair in enumerate(pairs):
        yield f"{i}/forward", pair.forward
        if pair.backward is not None:
            yield f"{i}/backward", pair.backward


def count_dt(model: SequenceModel, lengths_B: jax.Array) -> dict[str, DtCounts]:
    """Change a model so that it counts dt; return a dictionary that is filled when it encodes.

    The counts are by the name of the Mamba. ``model`` must have been merged inside the traced
    function; ``lengths_B`` are the lengths of the histories that it will encode, right padded.
    """
    counts: dict[str, DtCounts] = {}

    def counted(name: str, mamba: Mamba) -> Callable[..., jax.Array]:
        delta, bias_E = mamba.delta, mamba.dt_bias_E[...]

        def counting(dt: jax.Array, gaps: jax.Array | None) -> jax.Array:
            y = delta(dt, gaps)
            counts[name] = _count(jax.nn.softplus(y + bias_E), lengths_B)
            return y

        return counting

    for name, mamba in mambas(model):
        mamba.delta = counted(name, mamba)  # type: ignore[method-assign]
    return counts


def _count(dt_BxLxE: jax.Array, lengths_B: jax.Array) -> DtCounts:
    inside_BxLx1 = mask(lengths_B, dt_BxLxE.shape[1])[..., None]
    bin_BxLxE = jnp.floor((jnp.log10(dt_BxLxE) - _LOWEST) * _A_DECADE)
    bin_BxLxE = jnp.clip(bin_BxLxE, 0, _BINS - 1).astype(jnp.int32)
    inside_BxLxE = jnp.broadcast_to(inside_BxLx1, dt_BxLxE.shape).astype(jnp.int32)
    return DtCounts(
        jnp.zeros(_BINS, jnp.int32).at[bin_BxLxE].add(inside_BxLxE),
        jnp.sum(jnp.where(inside_BxLx1, dt_BxLxE, 0), axis=(0, 1)),
    )


def effective_memory(mean_dt_E: np.ndarray, A_ExN: np.ndarray) -> np.ndarray:
    """Return the number of events until a state has decayed to 1/e, (E, N); A is negative.

    Between two events k and l, a state decays by ``exp(A (dt_{k+1} + ... + dt_l))``. With the
    channel's mean dt in place of each, this is 1/e after ``1 / (mean dt x |A|)`` events. If that is
    below 1, the state holds little more than the newest event.
    """
    return -1 / (mean_dt_E[:, None] * A_ExN)
