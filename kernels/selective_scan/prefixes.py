"""The read-out of a reverse scan at position 0, for every prefix of a row in one pass.

The reverse scan of positions 0..m ends at position 0. With S_l the sum of the time steps before
position l, its state there is the sum

    h_m = sum_{l <= m} exp(A S_l) dt_l B_l u_l

A longer prefix adds terms without changing the others, so all prefixes together cost as much as the
longest one.
"""

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan.arguments import (
    as_arrays,
    state_dtype,
    time_steps,
    varying_alike,
    with_automatic_axes,
)
from selective_scan.missing_derivatives import no_forward_mode
from selective_scan.readout import decayed_sum
from selective_scan.sequence_parallel import moved_later, sum_before


@with_automatic_axes("BLE")
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
    """Return C . h at position 0 after the reverse scan of every prefix, without D and gate.

    The result at position m is ``selective_scan(x[:, :m + 1], reverse=True)[:, 0]``, for every
    argument x, but all prefixes take one pass together.

    The inputs of the scan at a position may depend on later positions, as after an anticausal
    convolution with K taps. Then u, delta and B have a leading axis of K versions: version k at a
    position holds for the prefix that ends k positions later, and the last version for all longer
    prefixes.

    Args:
        u: input, (B, L, E) or (K, B, L, E).
        delta: time steps before bias and softplus, of the same shape.
        A: decay rates, (E, N), negative.
        B: input matrix, (B, L, N) or (K, B, L, N).
        C: output matrix, (B, N), or (B, L, N) with one for each prefix. From position K - 1 on it
            must be the same, since each term is multiplied by C once, for the first prefix that it
            belongs to.
        delta_bias: added to ``delta``, (E,).
        delta_softplus: whether to apply softplus, which makes the time steps positive.
        lengths: valid positions of each row, (B,), integers; all L by default. Results past the
            length are undefined; the arguments must be finite there.
        axis_name: name of the mapped axis for sequence parallelism: each of its devices has one
            shard of the positions, in order. Lengths count the positions of the shard, which has at
            least K - 1 of them.

    Returns:
        C . h for the prefix that ends at each position, (B, L, E), in the dtype of ``u``.

    Raises:
        ValueError: a shape does not fit.
        TypeError: lengths are not integers, another argument is not real floating point, or
            forward-mode derivatives are taken.
    """
    u, C = jnp.asarray(u), jnp.asarray(C)
    K = "K" * (u.ndim == 4)
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "delta_bias": delta_bias}
    axes = {"u": f"{K}BLE", "delta": f"{K}BLE", "B": f"{K}BLN", "C": "BN" if C.ndim == 2 else "BLN"}
    u, delta, A, B, C, delta_bias, lengths = as_arrays(given | {"lengths": lengths}, axes).values()
    if not K:
        u, delta, B = u[None], delta[None], B[None]
    (versions, batch, length, channels), states = u.shape, A.shape[1]
    dtype, given_dtype = state_dtype(u, delta, A, B, C, delta_bias), u.dtype
    u, delta, A, B, C, delta_bias = no_forward_mode(
        "selective_scan_prefix_readouts",
        (u, delta, A, B, C, delta_bias),
        "take them in reverse mode (vjp, jacrev)",
    )
    if 0 in (batch, length, channels, states):  # there is nothing to sum, and no tile to cut
        return jnp.zeros((batch, length, channels), given_dtype)
    C = C.astype(dtype) if C.ndim == 3 else C.astype(dtype)[:, None]
    rates_ExN = A.astype(dtype)
    place_L = jnp.arange(length) + (jax.lax.axis_index(axis_name) * length if axis_name else 0)
    valid_BxL = jnp.ones((batch, length), bool)
    if lengths is not None:
        valid_BxL &= jnp.arange(length) < lengths[:, None]

    # In round k, index m has the term of position m - k in the prefix that ends at m. The first
    # round, with the last version, also sums the terms of all earlier positions. S at index m is
    # the time before position m - k; after each round it grows by that position's time step.
    y_BxLxE = S_BxLxE = None
    for k in range(versions - 1, -1, -1):
        dt_BxLxE = time_steps(delta[k], delta_bias, delta_softplus, None, dtype)
        term_BxLxE = moved_later(dt_BxLxE * u[k].astype(dtype), k, axis_name)
        dt_BxLxE = moved_later(dt_BxLxE, k, axis_name)
        if S_BxLxE is None:
            S_BxLxE = sum_before(dt_BxLxE, axis_name)
        B_BxLxN = moved_later(B[k].astype(dtype), k, axis_name)
        inputs = varying_alike(
            S_BxLxE.reshape(-1, channels),
            rates_ExN,
            (C * B_BxLxN).reshape(-1, states),
            (valid_BxL & (place_L >= k)).reshape(-1),
        )
        w_RxE = decayed_sum(*inputs)
        term_BxLxE *= w_RxE.reshape(term_BxLxE.shape)
        if y_BxLxE is None:
            y_BxLxE = sum_before(term_BxLxE, axis_name)
        y_BxLxE += term_BxLxE
        S_BxLxE += dt_BxLxE
    assert y_BxLxE is not None
    return y_BxLxE.astype(given_dtype)
