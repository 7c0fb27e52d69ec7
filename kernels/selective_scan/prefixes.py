"""The read-out of a reverse scan at its first position, for every prefix of a row in one pass.

The reverse scan of positions 0..m is read where it ends, at position 0. With S_l the sum of the
time steps before position l, its state there is a sum,

    h_m = sum_{l <= m} exp(A S_l) dt_l B_l u_l

so one more position adds a term and decays none: all prefixes cost what the longest does.
"""

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan.arguments import as_arrays, state_dtype, time_steps
from selective_scan.readout import decayed_sum
from selective_scan.sequence_parallel import moved_later, running_sum


def selective_scan_prefix_readouts(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    *,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    lengths: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Return C . h at the first position after the reverse scan of every prefix, (B, L, E).

    Position m has ``selective_scan(x[:, :m + 1], reverse=True)[:, 0]`` of every argument x, without
    D and gate and without a pass of its own. Positions at or past the length are not
    computed: there the result means nothing, and what is given must be finite.

    What the scan reads at a position may still change while later ones come, as behind a
    convolution that sees K - 1 of them. Then u, delta and B have K versions, with an axis in front:
    version k is that of the prefix which ends k positions later, and the last one stays.

    Args:
        u: input, (B, L, E) or (K, B, L, E).
        delta: time steps before bias and softplus, of the same shape.
        A: decay rates, (E, N), negative.
        B: how the input enters the states, (B, L, N) or (K, B, L, N).
        C: how the state is read, (B, N), or (B, L, N) for each prefix: from position K - 1 on it
            must be the same, since terms are summed up as they were read first.
        delta_bias: added to ``delta``, (E,).
        delta_softplus: whether softplus makes the time steps positive.
        lengths: (B,), integers (L by default).
        axis_name: the mapped axis whose devices each give one shard of time, in order; lengths are
            those of the shard, whose L is at least K - 1.

    Raises:
        ValueError: a shape does not fit.
        TypeError: lengths are not integers, or another argument is not real floating point; or
            forward-mode derivatives are asked for.
    """
    u, delta, B, C = map(jnp.asarray, (u, delta, B, C))
    if u.ndim == 3:
        u, delta, B = u[None], delta[None], B[None]
    if u.ndim != 4:
        raise ValueError(
            f"u has shape {u.shape}; (batch, length, channels) expected, or with versions in front"
        )
    one = {"u": u[0], "delta": delta, "A": A, "B": B, "C": C}
    axes = {"delta": "KBLE", "B": "KBLN", "C": "BN" if C.ndim == 2 else "BLN"}
    given = one | {"delta_bias": delta_bias, "lengths": lengths}
    _, delta, A, B, C, delta_bias, lengths = as_arrays(given, axes, K=len(u)).values()
    (versions, batch, length, channels), states = u.shape, A.shape[1]
    dtype, given_dtype = state_dtype(u, delta, A, B, C), u.dtype
    C = C.astype(dtype) if C.ndim == 3 else C.astype(dtype)[:, None]
    rates_ExN = A.astype(dtype)
    place_L = jnp.arange(length) + (jax.lax.axis_index(axis_name) * length if axis_name else 0)
    valid_BxL = jnp.ones((batch, length), bool)
    if lengths is not None:
        valid_BxL &= jnp.arange(length) < lengths[:, None]

    # At m stands what position m - k has in the prefix that ends at m, first that of the settled
    # ones. S there is that of position m - k - 1 and its time step.
    y_BxLxE = S_BxLxE = None
    for k in range(versions - 1, -1, -1):
        dt_BxLxE = time_steps(delta[k], delta_bias, delta_softplus, None, dtype)
        term_BxLxE = moved_later(dt_BxLxE * u[k], k, axis_name)
        dt_BxLxE = moved_later(dt_BxLxE, k, axis_name)
        if S_BxLxE is None:
            S_BxLxE = running_sum(dt_BxLxE, axis_name) - dt_BxLxE
        B_BxLxN = moved_later(B[k].astype(dtype), k, axis_name)
        w_RxE = decayed_sum(
            S_BxLxE.reshape(-1, channels),
            rates_ExN,
            (C * B_BxLxN).reshape(-1, states),
            (valid_BxL & (place_L >= k)).reshape(-1),
        )
        term_BxLxE *= w_RxE.reshape(term_BxLxE.shape)
        y_BxLxE = running_sum(term_BxLxE, axis_name) if y_BxLxE is None else y_BxLxE + term_BxLxE
        S_BxLxE += dt_BxLxE
    assert y_BxLxE is not None
    return y_BxLxE.astype(given_dtype)
