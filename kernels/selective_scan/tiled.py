"""One position after the other in plain JAX, with a hand-written gradient that recomputes.

Rows go in tiles whose state is small enough for a core's caches; time goes in chunks of about
sqrt(L) positions, and only the states between chunks are kept: O(sqrt(L)) states, forward and back.
XLA's CPU code is fast where an expression's last axis is long and elementwise, and where a sum is a
matrix product; sums that are neither are scalar loops, so they are written out term by term.
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

Sums = dict[str, Array]

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
        chunks = -(-length // max(_SHORTEST_CHUNK, isqrt(length)))
        return cls(tiles, -(-batch // tiles), chunks, -(-length // chunks))

    def tiled(self, x: Array) -> Array:
        """Return (B, ...) as (tiles, rows, ...), zeros where nothing is."""
        missing = self.tiles * self.rows - x.shape[0]
        x = jnp.pad(x, ((0, missing), *((0, 0) for _ in x.shape[1:]))) if missing else x
        return x.reshape(self.tiles, self.rows, *x.shape[1:])

    @staticmethod
    def untiled(x: Array, batch: int) -> Array:
        """Return (tiles, rows, ...) as (B, ...)."""
        return x.reshape(-1, *x.shape[2:])[:batch]

    def cut(self, x: Array) -> Array:
        """Return (rows, L, F) as (chunks, positions, rows, F), zeros where nothing is."""
        rows, length, _ = x.shape
        x = jnp.pad(x, ((0, 0), (0, self.chunks * self.positions - length), (0, 0)))
        return x.reshape(rows, self.chunks, self.positions, -1).transpose(1, 2, 0, 3)

    def joined(self, x: Array, length: int) -> Array:
        """Return (chunks, positions, rows, F) as (rows, L, F)."""
        rows = x.shape[2]
        return x.transpose(2, 0, 1, 3).reshape(rows, -1, x.shape[3])[:, :length]


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
    parts = _Parts.of(u.shape, A.shape[1])
    A2 = A.T / log(2)
    (B_BxLxN, B_NxE), (C_BxLxN, C_NxE) = map(_by_time, (B, C))

    def tile(part: tuple[Any, ...]) -> tuple[Array, ...]:
        h_rxExN, *whole = part
        h_rxNxE = h_rxExN.swapaxes(1, 2)
        in_time = jax.tree.map(parts.cut, tuple(whole))

        def position(h: Array, at: tuple[Any, ...]) -> tuple[Array, Array]:
            t_rxE, x_rxE, B_rxN, C_rxN = at
            h = _step(h, t_rxE, x_rxE, A2, B_rxN, B_NxE)
            return h, _over_states(C_rxN, C_NxE, h)

        def chunk(h: Array, at: tuple[Array, ...]) -> tuple[Array, Any]:
            after, y = lax.scan(position, h, at, reverse=reverse)
            return after, (y, h if keep else None)

        last, (y, starts) = lax.scan(chunk, h_rxNxE, in_time, reverse=reverse)
        return last.swapaxes(1, 2), parts.joined(y, u.shape[1]), starts

    whole = state, t, t * u, B_BxLxN, C_BxLxN
    last, y, starts = lax.map(tile, jax.tree.map(parts.tiled, whole))
    batch = u.shape[0]
    return parts.untiled(y, batch), parts.untiled(last, batch), starts


def _forward_rule(inputs: Recurrence, reverse: bool) -> tuple[Any, Any]:
    y, last, starts = _forward(inputs, reverse, keep=True)
    return (y, last), (*inputs[:5], starts)


def _backward_rule(reverse: bool, saved: Any, outer: Any) -> tuple[Recurrence]:
    u, t, A, B, C, starts = saved
    dy, dlast = outer
    parts = _Parts.of(u.shape, A.shape[1])
    A_NxE, A2 = A.T, A.T / log(2)
    (B_BxLxN, B_NxE), (C_BxLxN, C_NxE) = map(_by_time, (B, C))
    first, before, after = (parts.positions, 1, 0) if reverse else (0, 0, 1)

    def tile(part: tuple[Any, ...]) -> tuple[Any, ...]:
        g_rxExN, starts, *whole = part
        g_rxNxE = g_rxExN.swapaxes(1, 2)
        in_time = jax.tree.map(parts.cut, tuple(whole))
        position_P = jnp.arange(parts.positions)

        def recompute(carry: tuple[Array, Array], at: Any) -> tuple[Any, None]:
            h, kept = carry
            i, (t_rxE, x_rxE, B_rxN, _, _) = at
            h = _step(h, t_rxE, x_rxE, A2, B_rxN, B_NxE)
            return (h, lax.dynamic_update_index_in_dim(kept, h, i + after, 0)), None

        def chunk(carry: tuple[Any, ...], at: Any) -> tuple[Any, Any]:
            g, sums, kept = carry
            start, in_time = at
            kept = kept.at[first].set(start)
            at_position = position_P, in_time
            (_, kept), _ = lax.scan(recompute, (start, kept), at_position, reverse=reverse)

            def position(carry: tuple[Array, Sums], at: Any) -> tuple[Any, Any]:
                g, sums = carry  # g: of the state after this position, but for what y reads there
                i, (t_rxE, x_rxE, B_rxN, C_rxN, dy_rxE) = at
                dx_rxE = _over_states(B_rxN, B_NxE, g)
                dB_rxN = _einsum("rne,re->rn", g, x_rxE) if B_NxE is None else None
                more = {} if B_NxE is None else {"B": g * x_rxE[:, None]}
                read = C_rxN[..., None] if C_NxE is None else C_NxE
                g = (g + dy_rxE[:, None] * read) * exp2(t_rxE[:, None] * A2)
                h = lax.dynamic_index_in_dim(kept, i + before, 0, keepdims=False)
                # As g (h - x B) this would cancel where the decay is strong.
                q = g * h
                grads = dx_rxE, _sum_over_states(q * A_NxE), dB_rxN
                more["A"] = q * t_rxE[:, None]
                return (g, {name: sums[name] + x for name, x in more.items()}), grads

            # A sum over all positions of a long row, one after the other, would lose digits.
            nothing = {name: jnp.zeros_like(x) for name, x in sums.items() if name != "C"}
            (g, more), grads = lax.scan(position, (g, nothing), at_position, reverse=not reverse)
            dC = _read_gradient(kept, in_time[-1], reverse, summed=C_NxE is not None)
            more |= {} if C_NxE is None else {"C": dC}
            sums = {name: sums[name] + x for name, x in more.items()}
            return (g, sums, kept), (*grads, dC if C_NxE is None else None)

        nothing = jnp.zeros_like(g_rxNxE)
        kept = jnp.broadcast_to(nothing, (parts.positions + 1, *nothing.shape))
        carry = (g_rxNxE, dict.fromkeys(summed, nothing), kept)
        (g, sums, _), grads = lax.scan(chunk, carry, (starts, in_time), reverse=not reverse)
        return g.swapaxes(1, 2), sums, jax.tree.map(lambda x: parts.joined(x, u.shape[1]), grads)

    x = t * u
    # The gradients that are sums over all positions.
    summed = ["A", *(name for name, fixed in (("B", B_NxE), ("C", C_NxE)) if fixed is not None)]
    dlast, *in_time = jax.tree.map(parts.tiled, (dlast, t, x, B_BxLxN, C_BxLxN, dy))
    dstate, sums, grads = lax.map(tile, (dlast, starts, *in_time))
    dstate, (dx, dt, *others) = jax.tree.map(
        lambda x: parts.untiled(x, u.shape[0]), (dstate, grads)
    )
    sums = {name: jnp.sum(x, axis=(0, 1)).T for name, x in sums.items()}
    dB, dC = (sums.get(name, x) for name, x in zip("BC", others, strict=True))
    # What y adds to g where it reads.
    if summed == ["A"]:
        dx += dy * jnp.sum(B * C, axis=-1, keepdims=True)
        dB += C * jnp.sum(dy * x, axis=-1, keepdims=True)
    else:
        b, c = ("en" if x.ndim == 2 else "bln" for x in (B, C))
        dx += _einsum(f"ble,{b},{c}->ble", dy, B, C)
        dB += _einsum(f"ble,{c}->{b}", dy * x, C)
    return (Recurrence(dx * t, dx * u + dt, sums["A"], dB, dC, dstate),)


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
    enter = B_rxN[..., None] if B_NxE is None else B_NxE
    return exp2(t_rxE[:, None] * A2_NxE) * h_rxNxE + x_rxE[:, None] * enter


def _over_states(C_rxN: Any, C_NxE: Array | None, h_rxNxE: Array) -> Array:
    """Return C . h, (r, E)."""
    if C_NxE is None:
        return _einsum("rn,rne->re", C_rxN, h_rxNxE)
    return _sum_over_states(h_rxNxE * C_NxE)


def _read_gradient(kept: Array, dy_pre: Array, reverse: bool, *, summed: bool) -> Array:
    """Return the sum over E of dy h, (positions, r, N), from the start and the state after each.

    It is dy that moves, without states. ``summed``: the sum over positions instead, (r, N, E).
    """
    nothing = jnp.zeros_like(dy_pre[:1])
    moved = jnp.concatenate([dy_pre, nothing] if reverse else [nothing, dy_pre])
    if summed:
        return jnp.sum(kept * moved[:, :, None], axis=0)
    dC = _einsum("prne,pre->prn", kept, moved)
    return dC[:-1] if reverse else dC[1:]


def _sum_over_states(q_rxNxE: Array) -> Array:
    """Return the sum over N."""
    if q_rxNxE.shape[1] > _MOST_TERMS:
        return jnp.sum(q_rxNxE, axis=1)
    return sum(q_rxNxE[:, n] for n in range(1, q_rxNxE.shape[1])) + q_rxNxE[:, 0]
