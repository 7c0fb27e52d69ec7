"""Histories of which each device of a mapped axis has a stretch of time: what the devices exchange.

Lengths and positions are those of whole histories. Without an axis a stretch is the whole.
"""

import jax
import jax.numpy as jnp

from echojax.models.positions import at_position

# What a module's ``time_axis`` is until ``models.axes.with_axes`` names one.
NO_AXIS: str | None = None


def within(position_B: jax.Array, length: int, axis: str | None) -> jax.Array:
    """Return where a position (or an end) of the whole falls in this stretch of L, in 0..L."""
    if axis is None:
        return position_B
    return jnp.clip(position_B - jax.lax.axis_index(axis) * length, 0, length)


def whole_length(length: int, axis: str | None) -> int:
    """Return how many positions all stretches have."""
    return length if axis is None else length * jax.lax.axis_size(axis)


def at_item(x_BxLxD: jax.Array, position_B: jax.Array, axis: str | None) -> jax.Array:
    """Return row b's vector at position[b] of the whole, (B, D), on every device."""
    if axis is None:
        return at_position(x_BxLxD, position_B)
    length = x_BxLxD.shape[1]
    here_B = position_B // length == jax.lax.axis_index(axis)
    return jax.lax.psum(
        jnp.where(here_B[:, None], at_position(x_BxLxD, position_B % length), 0), axis
    )


def neighbours(x_BxLxD: jax.Array, count: int, axis: str | None, *, reverse: bool) -> jax.Array:
    """Return the ``count`` positions before this stretch (behind it if reverse), (B, count, D).

    Where there are none they are 0.

    Raises:
        ValueError: a stretch has fewer positions.
    """
    batch, length, d_model = x_BxLxD.shape
    if axis is None:
        return jnp.zeros((batch, count, d_model), x_BxLxD.dtype)
    if length < count:
        raise ValueError(f"a stretch of {length} positions, but a convolution reads {count} more")
    last = jax.lax.axis_size(axis) - 1
    if reverse:
        return jax.lax.ppermute(x_BxLxD[:, :count], axis, [(i + 1, i) for i in range(last)])
    return jax.lax.ppermute(x_BxLxD[:, -count:], axis, [(i, i + 1) for i in range(last)])


def channels_of_all(x_BxLxD: jax.Array, axis: str) -> jax.Array:
    """Return all positions of this device's share of the channels, (B, T L, D / T)."""
    return jax.lax.all_to_all(x_BxLxD, axis, 2, 1, tiled=True)


def stretch_of_all(x_BxTLxd: jax.Array, axis: str) -> jax.Array:
    """Undo ``channels_of_all``."""
    return jax.lax.all_to_all(x_BxTLxd, axis, 1, 2, tiled=True)
