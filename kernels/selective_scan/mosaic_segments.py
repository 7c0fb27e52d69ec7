"""Few long rows: segments of time that run side by side, and the states between them.

A segment that starts from 0 ends in some state; with another start it ends in that state plus the
start, decayed by exp(A times the sum of the segment's time steps). Gradients flow back likewise.
"""

import jax.numpy as jnp
from jax import Array, lax


def between_segments(
    ends: Array, totals: Array, A2: Array, edge: Array | None, backwards: Array
) -> Array:
    """Return the state with which each segment starts.

    Args:
        ends: (G, B, T, E, N), what each of T segments ends in when it starts from 0.
        totals: (G, B, T, E), sums of time steps.
        A2: (G, E, N), decay rates in base 2.
        edge: (G, B, E, N), with what the first segment starts; zeros if ``None``.
        backwards: (G,), whether a set goes from the last segment to the first.
    """
    edge = jnp.zeros_like(ends[:, :, 0]) if edge is None else edge
    ends, totals = (_in_order(x, backwards) for x in (ends, totals))
    decays = jnp.exp2(totals[..., None] * A2[:, None, None])
    ends = ends.at[:, :, 0].add(decays[:, :, 0] * edge)

    def join(near: tuple[Array, Array], far: tuple[Array, Array]) -> tuple[Array, Array]:
        return near[0] * far[0], far[0] * near[1] + far[1]

    _, behind = lax.associative_scan(join, (decays, ends), axis=2)
    return _in_order(jnp.concatenate([edge[:, :, None], behind[:, :, :-1]], axis=2), backwards)


def last_segment(x: Array, backwards: Array) -> Array:
    """Return (G, B, ...) of (G, B, T, ...): what the last segment on the way has."""
    return _in_order(x, backwards)[:, :, -1]


def _in_order(x: Array, backwards: Array) -> Array:
    """Return the segments of (G, B, T, ...) in the order of the way (and back again)."""
    return jnp.where(backwards.reshape(-1, *[1] * (x.ndim - 1)), jnp.flip(x, axis=2), x)
