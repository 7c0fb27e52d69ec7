"""The scan's output at the last position that it scans, without a recurrence.

A sequence encoder reads its last layer at one position. There the state is a plain sum: with S_l
the sum of the time steps after position l in scan order, and S_0 that of all time steps,

    h = exp(A S_0) h_0 + sum_l exp(A S_l) t_l B_l u_l
    y = C . h = C . exp(A S_0) h_0 + sum_l t_l u_l w_l,    w_le = sum_n C_n B_ln exp(A_en S_le)

This takes one exponential per (l, e, n). The terms do not depend on each other, the gradient needs
no residuals, and invalid positions cost nothing: the pairs (b, l) are sorted so that the valid ones
come first, and only the tiles that hold one are computed.

Here R is the number of pairs (b, l), and r that of a tile's.
"""

from collections.abc import Callable
from functools import partial
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from selective_scan.arguments import varying_alike
from selective_scan.elementwise import LOG2_E, exp2
from selective_scan.missing_derivatives import no_forward_mode

# Elements of a (rows, E) tile, so that all that it reads and writes fits into a core's second-level
# cache.
_TILE_ELEMENTS = 2**14

# Up to this length a plain sum is exact enough; longer rows are summed in a tree.
_LONGEST_SUM = 256


def readout(
    u_BxLxE: Array,
    t_BxLxE: Array,
    A_ExN: Array,
    B_BxLxN: Array,
    C_BxN: Array,
    initial_state_BxExN: Array | None,
    valid_BxL: Array,
    later_BxE: Array | None = None,
    *,
    reverse: bool,
) -> Array:
    """Return C . h after the last position that is scanned, (B, E), in the inputs' dtype.

    The inputs are all float32 or all float64. Time steps ``t`` are positive, or 0 at invalid
    positions. ``later_BxE`` is the time that passes between the last position and the read-out, on
    later sequence shards.

    Raises:
        TypeError: forward-mode derivatives are taken.
    """
    u_BxLxE, t_BxLxE, A_ExN, B_BxLxN, C_BxN, initial_state_BxExN, later_BxE = no_forward_mode(
        "implementation 'tiled'",
        (u_BxLxE, t_BxLxE, A_ExN, B_BxLxN, C_BxN, initial_state_BxExN, later_BxE),
    )
    batch, length, channels = t_BxLxE.shape
    rows = batch * length
    S_BxLxE = time_after(t_BxLxE, reverse)
    if later_BxE is not None:
        S_BxLxE += later_BxE[:, None]
    S_RxE = S_BxLxE.reshape(rows, channels)
    Q_RxN = (C_BxN[:, None] * B_BxLxN).reshape(rows, -1)
    inputs = varying_alike(S_RxE, A_ExN, Q_RxN, valid_BxL.reshape(rows))
    w_RxE = decayed_sum(*inputs)
    y_BxE = jnp.sum(t_BxLxE * u_BxLxE * w_RxE.reshape(batch, length, channels), axis=1)
    if initial_state_BxExN is not None:
        decay_BxExN = jnp.exp(jnp.sum(t_BxLxE, axis=1)[..., None] * A_ExN)
        y_BxE += jnp.einsum(
            "ben,bn->be", decay_BxExN * initial_state_BxExN, C_BxN, precision="highest"
        )
    return y_BxE


def _time_after(t_BxLxE: Array, reverse: bool) -> Array:
    """Return the sum of the time steps after each position in scan order, (B, L, E).

    Sums start at the end of the scan, so they are most exact where the state has decayed least.
    """
    length = t_BxLxE.shape[1]
    if length <= _LONGEST_SUM:
        if jax.default_backend() == "cpu":
            return _one_after_the_other(t_BxLxE, reverse)
        counted_LxL = jnp.tri(length, k=-1, dtype=t_BxLxE.dtype)
        return _matmul(counted_LxL if reverse else counted_LxL.T, t_BxLxE)
    nothing = jnp.zeros_like(t_BxLxE[:, :1])
    others = t_BxLxE[:, :-1] if reverse else t_BxLxE[:, 1:]
    # ``lax.cumsum`` does the same seven times slower on the CPU (as an O(L^2) window).
    sums = lax.associative_scan(jnp.add, others, axis=1, reverse=not reverse)
    return jnp.concatenate([nothing, sums] if reverse else [sums, nothing], axis=1)


def _one_after_the_other(t_BxLxE: Array, reverse: bool) -> Array:
    """Return the same in a loop over positions: on a CPU, in a third of the matrix product's time.

    The product needs time as the first axis, so that its operand and its result are copied.
    """

    def position(carry: tuple[Array, Array], place: Array) -> tuple[tuple[Array, Array], None]:
        sum_BxE, S_BxLxE = carry
        S_BxLxE = lax.dynamic_update_index_in_dim(S_BxLxE, sum_BxE, place, axis=1)
        t_BxE = lax.dynamic_index_in_dim(t_BxLxE, place, axis=1, keepdims=False)
        return (sum_BxE + t_BxE, S_BxLxE), None

    nothing = jnp.zeros_like(t_BxLxE[:, 0]), jnp.zeros_like(t_BxLxE)
    places_L = jnp.arange(t_BxLxE.shape[1])
    return lax.scan(position, nothing, places_L, reverse=not reverse)[0][1]


time_after = jax.custom_vjp(_time_after, nondiff_argnums=(1,))
time_after.defvjp(
    lambda t_BxLxE, reverse: (_time_after(t_BxLxE, reverse), None),
    # A time step is a term of the sums of all positions scanned before it.
    lambda reverse, _, dS_BxLxE: (_time_after(dS_BxLxE, not reverse),),
)


def _decayed_sum(S_RxE: Array, A_ExN: Array, Q_RxN: Array, valid_R: Array) -> Array:
    """Return sum_n Q_rn exp(A_en S_re) in valid rows, (R, E); other rows may hold anything finite.

    The exponentials of one n and one tile are in memory at a time.
    """
    return _over_valid(_sum, valid_R, A_ExN, (S_RxE, Q_RxN))[0]


Inputs = tuple[Array, Array, Array, Array]


def _forward(S_RxE: Array, A_ExN: Array, Q_RxN: Array, valid_R: Array) -> tuple[Array, Inputs]:
    return _decayed_sum(S_RxE, A_ExN, Q_RxN, valid_R), (S_RxE, A_ExN, Q_RxN, valid_R)


def _backward(inputs: Inputs, dw_RxE: Array) -> tuple[Array, Array, Array, None]:
    S_RxE, A_ExN, Q_RxN, valid_R = inputs
    arrays = (S_RxE, Q_RxN, dw_RxE)
    (dS_RxE, dQ_RxN), dA_NxE = _over_valid(_gradient, valid_R, A_ExN, arrays)
    return dS_RxE, dA_NxE.T, dQ_RxN, None


decayed_sum = jax.custom_vjp(_decayed_sum)
decayed_sum.defvjp(_forward, _backward)


def _sum(A_ExN: Array, S_rxE: Array, Q_rxN: Array) -> tuple[Array, None]:
    """Return the weighted sum of decays of each row, (r, E)."""
    rates_NxE, Q_Nxr = A_ExN.T * LOG2_E, Q_rxN.T

    def add(w_rxE: Array, group: Array) -> tuple[Array, None]:
        for n in group:
            w_rxE += _at(Q_Nxr, n)[:, None] * exp2(S_rxE * _at(rates_NxE, n))
        return w_rxE, None

    return lax.scan(add, jnp.zeros_like(S_rxE), _groups(len(rates_NxE), 4))


def _gradient(
    A_ExN: Array, S_rxE: Array, Q_rxN: Array, dw_rxE: Array
) -> tuple[tuple[Array, Array], Array]:
    """Return the gradients of S (r, E) and Q (r, N), and these rows' part of that of A, (N, E)."""
    rates_NxE, Q_Nxr = A_ExN.T, Q_rxN.T
    ones_E = jnp.ones(S_rxE.shape[1], S_rxE.dtype)

    def add(carry: tuple[Array, Array, Array], group: Array) -> tuple[Any, None]:
        sum_rxE, dQ_Nxr, dA_NxE = carry
        for n in group:
            A_E, Q_r = _at(rates_NxE, n), _at(Q_Nxr, n)
            # Without the barrier XLA computes the exponential once for each of its three uses.
            G_rxE = lax.optimization_barrier(exp2(S_rxE * (A_E * LOG2_E)) * dw_rxE)
            sum_rxE += (Q_r[:, None] * A_E) * G_rxE
            # The sums are matrix products, since XLA's reductions take longer on the CPU.
            dQ_Nxr = lax.dynamic_update_index_in_dim(dQ_Nxr, _matmul(G_rxE, ones_E), n, 0)
            dA_E = _matmul(Q_r, S_rxE * G_rxE)
            dA_NxE = lax.dynamic_update_index_in_dim(dA_NxE, dA_E, n, 0)
        return (sum_rxE, dQ_Nxr, dA_NxE), None

    nothing = jnp.zeros_like(S_rxE), jnp.zeros_like(Q_Nxr), jnp.zeros_like(rates_NxE)
    (dS_rxE, dQ_Nxr, dA_NxE), _ = lax.scan(add, nothing, _groups(len(rates_NxE), 2))
    return (dS_rxE, dQ_Nxr.T), dA_NxE


def _groups(states: int, most: int) -> Array:
    """Return the indices of the states in groups of equal size, (groups, states of each).

    The sums are read and written once per group. Each state is read from the whole arrays: for the
    nested slices that ``unroll`` would make, XLA's CPU code is a scalar loop.
    """
    return jnp.arange(states).reshape(-1, gcd(states, most))


def _at(x: Array, n: Array) -> Array:
    return lax.dynamic_index_in_dim(x, n, keepdims=False)


_matmul = partial(jnp.matmul, precision="highest")


def _over_valid(
    tile: Callable[..., Any], valid_R: Array, A_ExN: Array, arrays: tuple[Array, ...]
) -> Any:
    """Apply ``tile`` to the valid rows, tile by tile; return its arrays, and its sums added up.

    ``tile`` takes A and some rows of each array (R, ...), and returns arrays with as many rows, and
    a tree of sums over the rows. Results of invalid rows are 0 or computed like those of valid
    ones.
    """
    # Accelerators are faster with few large kernels; an exported batch may be symbolic.
    rows = valid_R.size
    if jax.default_backend() != "cpu" or not isinstance(rows, int) or rows == 0:
        return tile(A_ExN, *arrays)
    count = jnp.sum(valid_R, dtype=jnp.int32)

    def valid_first() -> Any:
        place_R = _places(valid_R, count)
        order_R = jnp.zeros_like(place_R).at[place_R].set(jnp.arange(place_R.size, dtype=jnp.int32))
        ordered = tuple(x[order_R] for x in arrays)
        found, total = _over_tiles(tile, count, A_ExN, ordered)
        return jax.tree.map(lambda x: x[place_R], found), total

    as_they_stand = partial(_over_tiles, tile, count, A_ExN, arrays)
    return lax.cond(count == rows, as_they_stand, valid_first)


def _places(valid_R: Array, count: Array) -> Array:
    """Return each row's place if the rows are sorted so that the ``count`` valid ones are first."""
    valid_R, is_valid_R = valid_R.astype(jnp.int32), valid_R
    before = jnp.cumsum(valid_R) - valid_R
    invalid_before = jnp.arange(valid_R.size, dtype=jnp.int32) - before
    return jnp.where(is_valid_R, before, count + invalid_before)


def _over_tiles(
    tile: Callable[..., Any], count: Array, A_ExN: Array, arrays: tuple[Array, ...]
) -> Any:
    """Apply ``tile`` to the tiles that hold any of the first ``count`` rows; others give zeros.

    The loop goes over all tiles and skips some, since JAX can differentiate a loop only if its
    number of iterations is fixed.
    """
    rows, channels = arrays[0].shape
    # Tiles of equal size need little padding.
    size = -(-rows // max(1, round(rows * channels / _TILE_ELEMENTS)))
    tiles = -(-rows // size)

    def cut(x_RxF: Array) -> Array:
        return jnp.pad(x_RxF, ((0, -rows % size), (0, 0))).reshape(tiles, size, -1)

    compute = partial(tile, A_ExN)

    def step(total: Any, at: tuple[Array, ...]) -> Any:
        first, *parts = at
        nothing = partial(jax.tree.map, jnp.zeros_like, jax.eval_shape(compute, *parts))
        found, more = lax.cond(first < count, compute, lambda *_: nothing(), *parts)
        return jax.tree.map(jnp.add, total, more), found

    parts = tuple(map(cut, arrays))
    _, total = jax.eval_shape(compute, *(x[0] for x in parts))
    first = jnp.arange(tiles, dtype=jnp.int32) * size
    total, found = lax.scan(step, jax.tree.map(jnp.zeros_like, total), (first, *parts))
    return jax.tree.map(lambda x: x.reshape(tiles * size, -1)[:rows], found), total
