"""A sequential scan in plain JAX for CPUs, with a hand-written gradient that recomputes states.

The batch is cut into tiles of rows, whose state fits into a core's caches, and time into chunks of
about sqrt(L) positions. Only the states between chunks are kept: O(sqrt(L)) states, forward and
backward. Each position is read from and written to the whole arrays in place, so that nothing of
size (B, L, E) is copied unless it must be padded. XLA's CPU code is fast for elementwise operations
over a long last axis and for matrix products. It computes all other sums in scalar loops, so these
are written out term by term.
"""

from functools import partial
from math import isqrt, log
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from selective_scan.arguments import Recurrence
from selective_scan.elementwise import exp2
from selective_scan.missing_derivatives import no_forward_mode

Sums = dict[str, Array]  # by argument, gradients (r, N, E) that are sums over positions

# Bytes of a tile's float32 state. At this size a position's state stays in a core's first-level
# cache and a chunk's states in the second. ``benchmarks/tune_tiles.py`` compares other sizes.
_TILE_BYTES = 32 * 1024
_SHORTEST_CHUNK = 16
_MOST_TERMS = 64  # of a sum that is written out


def tile_rows(channels: int, states: int) -> int:
    """Return how many rows a tile has on a CPU, given E and N.

    It has at least two: tiles of a single row were measured to be slower.
    """
    return max(2, _TILE_BYTES // (4 * channels * states))


class _Tiling(NamedTuple):
    """How (B, L, ...) is cut: into tiles of rows, and into chunks of positions."""

    tiles: int
    rows: int
    chunks: int
    positions: int

    @classmethod
    def of(cls, shape: tuple[int, ...], states: int) -> "_Tiling":
        batch, length, channels = shape
        tiles = 1
        # Accelerators are faster with few large operations; an exported batch may be symbolic.
        if jax.default_backend() == "cpu" and isinstance(batch, int):
            tiles = -(-batch // tile_rows(channels, states))
        most = -(-length // max(_SHORTEST_CHUNK, isqrt(length)))
        # With a few more chunks there is often nothing to pad.
        chunks = min(range(most, 2 * most + 1), key=lambda chunks: -length % -(-length // chunks))
        return cls(tiles, -(-batch // tiles), chunks, -(-length // chunks))

    @property
    def rows_of_tiles(self) -> Array:
        """The first row of each tile."""
        return jnp.arange(self.tiles) * self.rows

    @property
    def starts_of_chunks(self) -> Array:
        """The first position of each chunk."""
        return jnp.arange(self.chunks) * self.positions

    def padded(self, x: Array) -> Array:
        """Return (B, L, F), padded with zeros to (tiles x rows, chunks x positions, F)."""
        size = (self.tiles * self.rows, self.chunks * self.positions, x.shape[2])
        if size == x.shape:
            return x
        return jnp.pad(
            x, [(0, wanted - given) for wanted, given in zip(size, x.shape, strict=True)]
        )

    def states(self, h_BxExN: Array) -> Array:
        """Return the states of all rows, padded with zeros, as (tiles, rows, N, E)."""
        missing = self.tiles * self.rows - h_BxExN.shape[0]
        if missing:
            h_BxExN = jnp.pad(h_BxExN, ((0, missing), (0, 0), (0, 0)))
        h_BxNxE = h_BxExN.swapaxes(1, 2)
        return h_BxNxE.reshape(self.tiles, self.rows, *h_BxNxE.shape[1:])

    @staticmethod
    def of_rows(h_TxrxNxE: Array, batch: int) -> Array:
        """Return states (tiles, rows, N, E) as (B, E, N)."""
        return h_TxrxNxE.reshape(-1, *h_TxrxNxE.shape[2:])[:batch].swapaxes(1, 2)

    def read(self, whole: Any, row: Array, position: Array) -> Any:
        """Return one position of the tile that begins at a row, (rows, F) of each (B, L, F)."""
        return jax.tree.map(lambda x: self.slice(x, row, position, 1)[:, 0], whole)

    def slice(self, x: Array, row: Array, position: Array, count: int) -> Array:
        """Return ``count`` positions of the tile that begins at a row, (rows, count, F)."""
        size = (self.rows, count, x.shape[2])
        return lax.dynamic_slice(x, (row, position, 0), size, allow_negative_indices=False)


def _write(x: Array, new: Array, row: Array, position: Array) -> Array:
    """Return x, (B, L, F), with ``new``, (rows, count, F), written from a row and position on."""
    return lax.dynamic_update_slice(x, new, (row, position, 0), allow_negative_indices=False)


def scan(inputs: Recurrence, *, reverse: bool) -> tuple[Array, Array]:
    """Return C . h at every position, (B, L, E), and the last state, (B, E, N).

    B and C may be (E, N); all arrays and results have one dtype.

    Raises:
        TypeError: forward-mode derivatives are taken.
    """
    return _scan(no_forward_mode("implementation 'tiled'", inputs), reverse)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _scan(inputs: Recurrence, reverse: bool) -> tuple[Array, Array]:
    y, last, _ = _forward(inputs, reverse, keep=False)
    return y, last


def _forward(inputs: Recurrence, reverse: bool, *, keep: bool) -> tuple[Array, Array, Array | None]:
    """Return y, the last state and, with ``keep``, the states before each chunk."""
    u, t, A, B, C, state = inputs
    (batch, length, _), A2 = u.shape, A.T / log(2)
    tiling = _Tiling.of(u.shape, len(A2))
    (B_BxLxN, B_NxE), (C_BxLxN, C_NxE) = map(_by_time, (B, C))
    whole = jax.tree.map(tiling.padded, (t, u, B_BxLxN, C_BxLxN))
    index_P = jnp.arange(tiling.positions)

    def tile(y: Array, at: tuple[Array, Array]) -> tuple[Array, Any]:
        row, h_rxNxE = at

        def position(carry: tuple[Array, Array], place: Array) -> tuple[Any, None]:
            h, y = carry
            t_rxE, u_rxE, B_rxN, C_rxN = tiling.read(whole, row, place)
            h = _step(h, t_rxE, t_rxE * u_rxE, A2, B_rxN, B_NxE)
            return (h, _write(y, _over_states(C_rxN, C_NxE, h)[:, None], row, place)), None

        def chunk(carry: tuple[Array, Array], first: Array) -> tuple[Any, Array | None]:
            after, _ = lax.scan(position, carry, first + index_P, reverse=reverse)
            return after, carry[0] if keep else None

        (last, y), starts = lax.scan(chunk, (h_rxNxE, y), tiling.starts_of_chunks, reverse=reverse)
        return y, (last, starts)

    tiles = tiling.rows_of_tiles, tiling.states(state)
    y, (last, starts) = lax.scan(tile, jnp.zeros_like(whole[1]), tiles)
    return y[:batch, :length], tiling.of_rows(last, batch), starts


def _forward_rule(inputs: Recurrence, reverse: bool) -> tuple[Any, Any]:
    y, last, starts = _forward(inputs, reverse, keep=True)
    return (y, last), (*inputs[:5], starts)


def _backward_rule(reverse: bool, saved: Any, outer: Any) -> tuple[Recurrence]:
    u, t, A, B, C, starts = saved
    dy, dlast = outer
    (batch, length, _), A_NxE, A2 = dy.shape, A.T, A.T / log(2)
    tiling = _Tiling.of(dy.shape, len(A2))
    (B_BxLxN, B_NxE), (C_BxLxN, C_NxE) = map(_by_time, (B, C))
    whole = jax.tree.map(tiling.padded, (t, u, B_BxLxN, C_BxLxN, dy))
    start, before, after = (tiling.positions, 1, 0) if reverse else (0, 0, 1)
    index_P = jnp.arange(tiling.positions)

    def tile(carry: tuple[Any, Sums, Array], at: tuple[Array, ...]) -> tuple[Any, Array]:
        grads, sums, kept = carry
        row, g_rxNxE, starts = at

        def recompute(carry: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[Any, None]:
            h, kept = carry
            i, place = at
            t_rxE, u_rxE, B_rxN = tiling.read(whole[:3], row, place)
            h = _step(h, t_rxE, t_rxE * u_rxE, A2, B_rxN, B_NxE)
            return (h, lax.dynamic_update_index_in_dim(kept, h, i + after, 0)), None

        def chunk(carry: tuple[Any, ...], at: tuple[Array, Array]) -> tuple[Any, None]:
            grads, g, sums, kept = carry
            first, h = at
            kept = kept.at[start].set(h)
            places = index_P, first + index_P
            (_, kept), _ = lax.scan(recompute, (h, kept), places, reverse=reverse)

            def position(carry: tuple[Any, Array, Sums], at: tuple[Array, Array]) -> Any:
                grads, g, sums = carry  # g: gradient of the state after this position, without y's
                i, place = at
                t_rxE, u_rxE, B_rxN, C_rxN, dy_rxE = tiling.read(whole, row, place)
                g += dy_rxE[:, None] * _beside_states(C_rxN, C_NxE)
                x_rxE = t_rxE * u_rxE
                dx_rxE = _over_states(B_rxN, B_NxE, g)
                dB_rxN = _einsum("rne,re->rn", g, x_rxE) if B_NxE is None else None
                more = {} if B_NxE is None else {"B": g * x_rxE[:, None]}
                g *= exp2(t_rxE[:, None] * A2)
                # Computed as g (h - x B), this would lose all digits if the decay is strong.
                q = g * lax.dynamic_index_in_dim(kept, i + before, 0, keepdims=False)
                more["A"] = q * t_rxE[:, None]
                dt_rxE = dx_rxE * u_rxE + _sum_over_states(q * A_NxE)
                found = jax.tree.map(lambda x: x[:, None], (dx_rxE * t_rxE, dt_rxE, dB_rxN))
                grads = jax.tree.map(lambda x, new: _write(x, new, row, place), grads, found)
                return (grads, g, {name: sums[name] + x for name, x in more.items()}), None

            # Chunks are summed apart: one running sum over a long row would lose digits.
            nothing = {name: jnp.zeros_like(x) for name, x in sums.items() if name != "C"}
            (*grads, dC), carry = grads, (grads[:3], g, nothing)
            (grads, g, more), _ = lax.scan(position, carry, places, reverse=not reverse)
            dy_PxrxE = tiling.slice(whole[4], row, first, tiling.positions).swapaxes(0, 1)
            found = _read_gradient(kept, dy_PxrxE, reverse, summed=dC is None)
            if dC is None:
                more["C"] = found
            else:
                dC = _write(dC, found.swapaxes(0, 1), row, first)
            sums = {name: sums[name] + x for name, x in more.items()}
            return ((*grads, dC), g, sums, kept), None

        before_all, chunks = (grads, g_rxNxE, sums, kept), (tiling.starts_of_chunks, starts)
        (grads, g, sums, kept), _ = lax.scan(chunk, before_all, chunks, reverse=not reverse)
        return (grads, sums, kept), g

    dlast_TxrxNxE = tiling.states(dlast)
    nothing_rxNxE = jnp.zeros_like(dlast_TxrxNxE[0])
    kept = jnp.broadcast_to(nothing_rxNxE, (tiling.positions + 1, *nothing_rxNxE.shape))
    # The arguments whose gradients are sums over all positions.
    summed = ["A", *(name for name, fixed in (("B", B_NxE), ("C", C_NxE)) if fixed is not None)]
    t, u, B_BxLxN, C_BxLxN, _ = whole
    grads = jax.tree.map(jnp.zeros_like, (u, t, B_BxLxN, C_BxLxN))
    carry = grads, dict.fromkeys(summed, nothing_rxNxE), kept
    tiles = tiling.rows_of_tiles, dlast_TxrxNxE, starts
    (grads, sums, _), dstate = lax.scan(tile, carry, tiles)
    du, dt, dB, dC = jax.tree.map(lambda x: x[:batch, :length], grads)
    sums = {name: jnp.sum(x, axis=0).T for name, x in sums.items()}
    dB, dC = sums.get("B", dB), sums.get("C", dC)
    return (Recurrence(du, dt, sums["A"], dB, dC, tiling.of_rows(dstate, batch)),)


_scan.defvjp(_forward_rule, _backward_rule)

_einsum = partial(jnp.einsum, precision="highest")


def _by_time(x: Array) -> tuple[Array | None, Array | None]:
    """Return B or C as (B, L, N) if it depends on the position, or as (N, E) if not.

    The other one of the two is ``None``.
    """
    return (None, x.T) if x.ndim == 2 else (x, None)


def _step(
    h_rxNxE: Array,
    t_rxE: Array,
    x_rxE: Array,
    A2_NxE: Array,
    B_rxN: Any,
    B_NxE: Array | None,
) -> Array:
    """Return the state after one more position."""
    entered = x_rxE[:, None] * _beside_states(B_rxN, B_NxE)
    return exp2(t_rxE[:, None] * A2_NxE) * h_rxNxE + entered


def _beside_states(x_rxN: Any, x_NxE: Array | None) -> Array:
    """Return B or C of one position, in either form, in a shape that broadcasts to (r, N, E)."""
    return x_rxN[..., None] if x_NxE is None else x_NxE


def _over_states(C_rxN: Any, C_NxE: Array | None, h_rxNxE: Array) -> Array:
    """Return C . h, (r, E)."""
    if C_NxE is None:
        return _einsum("rn,rne->re", C_rxN, h_rxNxE)
    return _sum_over_states(h_rxNxE * C_NxE)


def _read_gradient(kept: Array, dy_PxrxE: Array, reverse: bool, *, summed: bool) -> Array:
    """Return the gradient of C in a chunk: the sum over E of dy h, (positions, r, N).

    ``kept`` has the state before the chunk as well as the state after each position, so dy is
    shifted by one to match it. With ``summed`` the sum is over positions instead, (r, N, E).
    """
    nothing = jnp.zeros_like(dy_PxrxE[:1])
    moved = jnp.concatenate([dy_PxrxE, nothing] if reverse else [nothing, dy_PxrxE])
    if summed:
        return jnp.sum(kept * moved[:, :, None], axis=0)
    dC = _einsum("prne,pre->prn", kept, moved)
    return dC[:-1] if reverse else dC[1:]


def _sum_over_states(q_rxNxE: Array) -> Array:
    """Return the sum over N."""
    if q_rxNxE.shape[1] > _MOST_TERMS:
        return jnp.sum(q_rxNxE, axis=1)
    return sum(q_rxNxE[:, n] for n in range(1, q_rxNxE.shape[1])) + q_rxNxE[:, 0]
