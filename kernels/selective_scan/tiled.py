"""One position after the other in plain JAX, with a hand-written gradient that recomputes.

Rows go in tiles whose state is small enough for a core's caches; time goes in chunks of about
sqrt(L) positions, and only the states between chunks are kept: O(sqrt(L)) states, forward and back.
A position is read from the whole arrays and written to them, so that nothing of size (B, L, E) is
copied, unless it must be padded. XLA's CPU code is fast where an expression's last axis is long and
elementwise, and where a sum is a matrix product; sums that are neither are scalar loops, so they
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

Sums = dict[str, Array]  # gradients (r, N, E) that are sums over positions, by argument

# Of a tile's float32 state: then a chunk's states stay in a core's second-level cache, and a
# position's in the first. ``benchmarks/tune_tiles.py`` compares other sizes.
_TILE_BYTES = 32 * 1024
_SHORTEST_CHUNK = 16
_MOST_TERMS = 64  # written out


def tile_rows(channels: int, states: int) -> int:
    """Return how many rows of so many channels, each with so many states, a tile has on a CPU.

    Two at least: one alone was measured slower.
    """
    return max(2, _TILE_BYTES // (4 * channels * states))


class _Parts(NamedTuple):
    """How (B, L, ...) is cut into tiles of rows and chunks of time."""

    tiles: int
    rows: int
    chunks: int
    positions: int

    @classmethod
    def of(cls, shape: tuple[int, ...], states: int) -> "_Parts":
        batch, length, channels = shape
        tiles = 1
        # An accelerator wants few large operations, and an exported program's batch has no number.
        if jax.default_backend() == "cpu" and isinstance(batch, int):
            tiles = -(-batch // tile_rows(channels, states))
        most = -(-length // max(_SHORTEST_CHUNK, isqrt(length)))
        # A few more chunks often leave nothing to pad.
        chunks = min(range(most, 2 * most + 1), key=lambda chunks: -length % -(-length // chunks))
        return cls(tiles, -(-batch // tiles), chunks, -(-length // chunks))

    @property
    def rows_of_tiles(self) -> Array:
        """The first row of each tile."""
        return jnp.arange(self.tiles) * self.rows

    @property
    def places_of_chunks(self) -> Array:
        """The first position of each chunk."""
        return jnp.arange(self.chunks) * self.positions

    def padded(self, x: Array) -> Array:
        """Return (B, L, F) as (tiles x rows, chunks x positions, F), zeros where nothing is."""
        size = (self.tiles * self.rows, self.chunks * self.positions, x.shape[2])
        if size == x.shape:
            return x
        return jnp.pad(
            x, [(0, wanted - given) for wanted, given in zip(size, x.shape, strict=True)]
        )

    def states(self, h_BxExN: Array) -> Array:
        """Return one state a row as (tiles, rows, N, E), zeros where nothing is."""
        missing = self.tiles * self.rows - h_BxExN.shape[0]
        if missing:
            h_BxExN = jnp.pad(h_BxExN, ((0, missing), (0, 0), (0, 0)))
        h_BxNxE = h_BxExN.swapaxes(1, 2)
        return h_BxNxE.reshape(self.tiles, self.rows, *h_BxNxE.shape[1:])

    @staticmethod
    def of_rows(h_TxrxNxE: Array, batch: int) -> Array:
        """Return states (tiles, rows, N, E) as (B, E, N)."""
        return h_TxrxNxE.reshape(-1, *h_TxrxNxE.shape[2:])[:batch].swapaxes(1, 2)

    def read(self, whole: Any, row: Array, place: Array) -> Any:
        """Return one position of a tile from arrays (B, L, F), each (rows, F)."""
        return jax.tree.map(lambda x: self.slice(x, row, place, 1)[:, 0], whole)

    def slice(self, x: Array, row: Array, place: Array, positions: int) -> Array:
        """Return some positions of a tile, (rows, positions, F)."""
        size = (self.rows, positions, x.shape[2])
        return lax.dynamic_slice(x, (row, place, 0), size, allow_negative_indices=False)


def _write(x: Array, new: Array, row: Array, place: Array) -> Array:
    """Return (B, L, F) with the positions of a tile that begin there, (rows, positions, F)."""
    return lax.dynamic_update_slice(x, new, (row, place, 0), allow_negative_indices=False)


def scan(inputs: Recurrence, *, reverse: bool) -> tuple[Array, Array]:
    """Return C . h at every position, (B, L, E), and the last state, (B, E, N)."""
    return _scan(no_forward_mode("tiled", inputs), reverse)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _scan(inputs: Recurrence, reverse: bool) -> tuple[Array, Array]:
    y, last, _ = _forward(inputs, reverse, keep=False)
    return y, last


def _forward(inputs: Recurrence, reverse: bool, *, keep: bool) -> tuple[Array, Array, Array | None]:
    """Return y, the last state and, to keep, the states before each chunk."""
    u, t, A, B, C, state = inputs
    (batch, length, _), A2 = u.shape, A.T / log(2)
    parts = _Parts.of(u.shape, len(A2))
    (B_BxLxN, B_NxE), (C_BxLxN, C_NxE) = map(_by_time, (B, C))
    whole = jax.tree.map(parts.padded, (t, u, B_BxLxN, C_BxLxN))
    place_P = jnp.arange(parts.positions)

    def tile(y: Array, at: tuple[Array, Array]) -> tuple[Array, Any]:
        row, h_rxNxE = at

        def position(carry: tuple[Array, Array], place: Array) -> tuple[Any, None]:
            h, y = carry
            t_rxE, u_rxE, B_rxN, C_rxN = parts.read(whole, row, place)
            h = _step(h, t_rxE, t_rxE * u_rxE, A2, B_rxN, B_NxE)
            return (h, _write(y, _over_states(C_rxN, C_NxE, h)[:, None], row, place)), None

        def chunk(carry: tuple[Array, Array], first: Array) -> tuple[Any, Array | None]:
            after, _ = lax.scan(position, carry, first + place_P, reverse=reverse)
            return after, carry[0] if keep else None

        (last, y), starts = lax.scan(chunk, (h_rxNxE, y), parts.places_of_chunks, reverse=reverse)
        return y, (last, starts)

    tiles = parts.rows_of_tiles, parts.states(state)
    y, (last, starts) = lax.scan(tile, jnp.zeros_like(whole[1]), tiles)
    return y[:batch, :length], parts.of_rows(last, batch), starts


def _forward_rule(inputs: Recurrence, reverse: bool) -> tuple[Any, Any]:
    y, last, starts = _forward(inputs, reverse, keep=True)
    return (y, last), (*inputs[:5], starts)


def _backward_rule(reverse: bool, saved: Any, outer: Any) -> tuple[Recurrence]:
    u, t, A, B, C, starts = saved
    dy, dlast = outer
    (batch, length, _), A_NxE, A2 = dy.shape, A.T, A.T / log(2)
    parts = _Parts.of(dy.shape, len(A2))
    (B_BxLxN, B_NxE), (C_BxLxN, C_NxE) = map(_by_time, (B, C))
    whole = jax.tree.map(parts.padded, (t, u, B_BxLxN, C_BxLxN, dy))
    start, before, after = (parts.positions, 1, 0) if reverse else (0, 0, 1)
    place_P = jnp.arange(parts.positions)

    def tile(carry: tuple[Any, Sums, Array], at: tuple[Array, ...]) -> tuple[Any, Array]:
        grads, sums, kept = carry
        row, g_rxNxE, starts = at

        def recompute(carry: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[Any, None]:
            h, kept = carry
            i, place = at
            t_rxE, u_rxE, B_rxN = parts.read(whole[:3], row, place)
            h = _step(h, t_rxE, t_rxE * u_rxE, A2, B_rxN, B_NxE)
            return (h, lax.dynamic_update_index_in_dim(kept, h, i + after, 0)), None

        def chunk(carry: tuple[Any, ...], at: tuple[Array, Array]) -> tuple[Any, None]:
            grads, g, sums, kept = carry
            first, h = at
            kept = kept.at[start].set(h)
            places = place_P, first + place_P
            (_, kept), _ = lax.scan(recompute, (h, kept), places, reverse=reverse)

            def position(carry: tuple[Any, Array, Sums], at: tuple[Array, Array]) -> Any:
                grads, g, sums = carry  # g: of the state after this position, but for what y reads
                i, place = at
                t_rxE, u_rxE, B_rxN, C_rxN, dy_rxE = parts.read(whole, row, place)
                g += dy_rxE[:, None] * _beside_states(C_rxN, C_NxE)
                x_rxE = t_rxE * u_rxE
                dx_rxE = _over_states(B_rxN, B_NxE, g)
                dB_rxN = _einsum("rne,re->rn", g, x_rxE) if B_NxE is None else None
                more = {} if B_NxE is None else {"B": g * x_rxE[:, None]}
                g *= exp2(t_rxE[:, None] * A2)
                # As g (h - x B) this would cancel where the decay is strong.
                q = g * lax.dynamic_index_in_dim(kept, i + before, 0, keepdims=False)
                more["A"] = q * t_rxE[:, None]
                dt_rxE = dx_rxE * u_rxE + _sum_over_states(q * A_NxE)
                found = jax.tree.map(lambda x: x[:, None], (dx_rxE * t_rxE, dt_rxE, dB_rxN))
                grads = jax.tree.map(lambda x, new: _write(x, new, row, place), grads, found)
                return (grads, g, {name: sums[name] + x for name, x in more.items()}), None

            # A sum over all positions of a long row, one after the other, would lose digits.
            nothing = {name: jnp.zeros_like(x) for name, x in sums.items() if name != "C"}
            (*grads, dC), carry = grads, (grads[:3], g, nothing)
            (grads, g, more), _ = lax.scan(position, carry, places, reverse=not reverse)
            dy_PxrxE = parts.slice(whole[4], row, first, parts.positions).swapaxes(0, 1)
            found = _read_gradient(kept, dy_PxrxE, reverse, summed=dC is None)
            if dC is None:
                more["C"] = found
            else:
                dC = _write(dC, found.swapaxes(0, 1), row, first)
            sums = {name: sums[name] + x for name, x in more.items()}
            return ((*grads, dC), g, sums, kept), None

        before_all, chunks = (grads, g_rxNxE, sums, kept), (parts.places_of_chunks, starts)
        (grads, g, sums, kept), _ = lax.scan(chunk, before_all, chunks, reverse=not reverse)
        return (grads, sums, kept), g

    dlast_TxrxNxE = parts.states(dlast)
    nothing_rxNxE = jnp.zeros_like(dlast_TxrxNxE[0])
    kept = jnp.broadcast_to(nothing_rxNxE, (parts.positions + 1, *nothing_rxNxE.shape))
    # The gradients that are sums over all positions.
    summed = ["A", *(name for name, fixed in (("B", B_NxE), ("C", C_NxE)) if fixed is not None)]
    t, u, B_BxLxN, C_BxLxN, _ = whole
    grads = jax.tree.map(jnp.zeros_like, (u, t, B_BxLxN, C_BxLxN))
    carry = grads, dict.fromkeys(summed, nothing_rxNxE), kept
    tiles = parts.rows_of_tiles, dlast_TxrxNxE, starts
    (grads, sums, _), dstate = lax.scan(tile, carry, tiles)
    du, dt, dB, dC = jax.tree.map(lambda x: x[:batch, :length], grads)
    sums = {name: jnp.sum(x, axis=0).T for name, x in sums.items()}
    dB, dC = sums.get("B", dB), sums.get("C", dC)
    return (Recurrence(du, dt, sums["A"], dB, dC, parts.of_rows(dstate, batch)),)


_scan.defvjp(_forward_rule, _backward_rule)

_einsum = partial(jnp.einsum, precision="highest")


def _by_time(x: Array) -> tuple[Array | None, Array | None]:
    """Return B or C as it moves, (B, L, N), and as it stays the same, (N, E); one is ``None``."""
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
    """Return B or C of one position, either way it is given, to multiply by (r, N, E)."""
    return x_rxN[..., None] if x_NxE is None else x_NxE


def _over_states(C_rxN: Any, C_NxE: Array | None, h_rxNxE: Array) -> Array:
    """Return C . h, (r, E)."""
    if C_NxE is None:
        return _einsum("rn,rne->re", C_rxN, h_rxNxE)
    return _sum_over_states(h_rxNxE * C_NxE)


def _read_gradient(kept: Array, dy_PxrxE: Array, reverse: bool, *, summed: bool) -> Array:
    """Return the sum over E of dy h, (positions, r, N), from the start and the state after each.

    It is dy that moves, without states. ``summed``: the sum over positions instead, (r, N, E).
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
