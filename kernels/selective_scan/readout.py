"""The scan's output at the last position it visits, without a recurrence.

A sequence encoder reads its last layer at one position. There the state is a plain sum: with S_l
the sum of the time steps visited after position l, and S_0 that of all of them,

    h = exp(A S_0) h_0 + sum_l exp(A S_l) t_l B_l u_l
    y = C . h = C . exp(A S_0) h_0 + sum_l t_l u_l w_l,    w_le = sum_n C_n B_ln exp(A_en S_le)

One exponential per (l, e, n), nothing waits for anything, nothing is kept for the gradient, and
positions that are not visited cost nothing: the rows (b, l) that are go first, and only the tiles
that hold one are computed.
"""

from functools import partial

import jax
import jax.numpy as jnp

from selective_scan.arguments import varying_alike
from selective_scan.exponential import LOG2_E, exp2

# Elements of a (rows, E) tile: what a tile touches stays in a core's second-level cache.
_TILE_ELEMENTS = 2**14


def readout(
    u_BxLxE: jax.Array,
    t_BxLxE: jax.Array,
    A_ExN: jax.Array,
    B_BxLxN: jax.Array,
    C_BxN: jax.Array,
    initial_state_BxExN: jax.Array | None,
    visited_BxL: jax.Array,
    behind_BxE: jax.Array | None = None,
    *,
    reverse: bool,
) -> jax.Array:
    """Return C . h behind the last visited position, (B, E).

    Time steps ``t`` are positive, and 0 at positions that are not visited; all inputs are float32
    or all float64. ``behind``: time that passes behind the last position before h is read.
    """
    batch, length, channels = t_BxLxE.shape
    rows = batch * length
    S_BxLxE = time_after(t_BxLxE, reverse)
    if behind_BxE is not None:
        S_BxLxE += behind_BxE[:, None]
    S_RxE = S_BxLxE.reshape(rows, channels)
    Q_RxN = (C_BxN[:, None] * B_BxLxN).reshape(rows, -1)
    place_R, count = _visited_first(visited_BxL.reshape(rows))
    order_R = jnp.zeros(rows, jnp.int32).at[place_R].set(jnp.arange(rows, dtype=jnp.int32))
    of_rows = varying_alike(S_RxE[order_R], A_ExN, Q_RxN[order_R], count)
    w_RxE = decayed_sum(*of_rows)[place_R]
    y_BxE = jnp.sum(t_BxLxE * u_BxLxE * w_RxE.reshape(batch, length, channels), axis=1)
    if initial_state_BxExN is not None:
        decay_BxExN = jnp.exp(jnp.sum(t_BxLxE, axis=1)[..., None] * A_ExN)
        y_BxE += jnp.einsum(
            "ben,bn->be", decay_BxExN * initial_state_BxExN, C_BxN, precision="highest"
        )
    return y_BxE


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def time_after(t_BxLxE: jax.Array, reverse: bool) -> jax.Array:
    """Return the sum of the time steps visited after each position, (B, L, E).

    Summed from the near end, so that what has decayed least is the most exact.
    """
    nothing = jnp.zeros_like(t_BxLxE[:, :1])
    others = t_BxLxE[:, :-1] if reverse else t_BxLxE[:, 1:]
    # ``lax.cumsum`` does the same seven times slower on the CPU (as an O(L^2) window).
    sums = jax.lax.associative_scan(jnp.add, others, axis=1, reverse=not reverse)
    return jnp.concatenate([nothing, sums] if reverse else [sums, nothing], axis=1)


time_after.defvjp(
    lambda t_BxLxE, reverse: (time_after(t_BxLxE, reverse), None),
    # A position's time step counts for all that were visited before it.
    lambda reverse, _, dS_BxLxE: (time_after(dS_BxLxE, not reverse),),
)


def _visited_first(visited_R: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return each row's place when visited rows come first, and how many are visited."""
    count = jnp.sum(visited_R, dtype=jnp.int32)
    before = jnp.cumsum(visited_R, dtype=jnp.int32) - visited_R
    unvisited_before = jnp.arange(visited_R.size, dtype=jnp.int32) - before
    return jnp.where(visited_R, before, count + unvisited_before), count


@jax.custom_vjp
def decayed_sum(
    S_RxE: jax.Array, A_ExN: jax.Array, Q_RxN: jax.Array, count: jax.Array
) -> jax.Array:
    """Return sum_n Q_rn exp(A_en S_re) in the first ``count`` rows and 0 or more in others, (R, E).

    Tiles of rows without any of the first ``count`` are 0. One n of one tile is held at a time.
    """
    size = _tile_rows(S_RxE)
    S, Q = _padded(S_RxE, size), _padded(Q_RxN, size)

    def tile(i: jax.Array, w: jax.Array) -> jax.Array:
        S_rxE, Q_rxN = _rows(S, i, size), _rows(Q, i, size)

        def add(w_rxE: jax.Array, n: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            A_E, Q_r = n
            return w_rxE + Q_r[:, None] * exp2(S_rxE * A_E), None

        w_rxE, _ = jax.lax.scan(add, jnp.zeros_like(S_rxE), (A_ExN.T * LOG2_E, Q_rxN.T))
        return jax.lax.dynamic_update_slice_in_dim(w, w_rxE, i * size, 0)

    w = jax.lax.fori_loop(0, -(-count // size), tile, jnp.zeros_like(S))
    return w[: S_RxE.shape[0]]


Inputs = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _forward(
    S_RxE: jax.Array, A_ExN: jax.Array, Q_RxN: jax.Array, count: jax.Array
) -> tuple[jax.Array, Inputs]:
    return decayed_sum(S_RxE, A_ExN, Q_RxN, count), (S_RxE, A_ExN, Q_RxN, count)


def _backward(inputs: Inputs, dw_RxE: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    S_RxE, A_ExN, Q_RxN, count = inputs
    rows, size = S_RxE.shape[0], _tile_rows(S_RxE)
    S, Q, dw = (_padded(x, size) for x in (S_RxE, Q_RxN, dw_RxE))

    def tile(i: jax.Array, grads: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        dS, dA_NxE, dQ = grads
        S_rxE, Q_rxN, dw_rxE = (_rows(x, i, size) for x in (S, Q, dw))
        ones_E = jnp.ones(S_rxE.shape[1], S_rxE.dtype)

        def add(
            sum_rxE: jax.Array, n: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            A_E, Q_r = n
            # Without the barrier each of its three readers computes the exponential anew.
            G_rxE = jax.lax.optimization_barrier(exp2(S_rxE * (A_E * LOG2_E)) * dw_rxE)
            # Sums as matrix products: XLA's own reductions take twice as long on the CPU.
            sums = _matmul(G_rxE, ones_E), _matmul(Q_r, S_rxE * G_rxE)
            return sum_rxE + (Q_r[:, None] * A_E) * G_rxE, sums

        sum_rxE, (dQ_Nxr, more_NxE) = jax.lax.scan(add, jnp.zeros_like(S_rxE), (A_ExN.T, Q_rxN.T))
        return (
            jax.lax.dynamic_update_slice_in_dim(dS, sum_rxE, i * size, 0),
            dA_NxE + more_NxE,
            jax.lax.dynamic_update_slice_in_dim(dQ, dQ_Nxr.T, i * size, 0),
        )

    start = (jnp.zeros_like(S), jnp.zeros_like(A_ExN.T), jnp.zeros_like(Q))
    dS, dA_NxE, dQ = jax.lax.fori_loop(0, -(-count // size), tile, start)
    return dS[:rows], dA_NxE.T, dQ[:rows], None


decayed_sum.defvjp(_forward, _backward)


_matmul = partial(jnp.matmul, precision="highest")


def _tile_rows(x_RxE: jax.Array) -> int:
    """Return how many rows a tile has: equal tiles, so that little is padded."""
    rows, channels = x_RxE.shape
    if jax.default_backend() != "cpu":  # an accelerator wants few large kernels
        return rows
    return -(-rows // max(1, round(rows * channels / _TILE_ELEMENTS)))


def _padded(x_RxF: jax.Array, size: int) -> jax.Array:
    return jnp.pad(x_RxF, ((0, -x_RxF.shape[0] % size), (0, 0)))


def _rows(x_RxF: jax.Array, i: jax.Array, size: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x_RxF, i * size, size)
