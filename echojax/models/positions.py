"""Positions of histories, which may be sharded over devices, and the exchange between these.

Lengths and positions refer to whole histories. The devices of a mapped axis hold their shards in
the order of time; without an axis, there is one shard, the whole history.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


class TimeSharded(nnx.Module):
    """A module that can compute with shards of the positions, over the mapped ``time_axis``."""

    time_axis: str | None = None


def mask(lengths_B: Array, length: int) -> Array:
    """Return which positions hold an item and not padding, (B, L) booleans."""
    return jnp.arange(length) < lengths_B[:, None]


def pad_to(item_ids_BxL: Array, length: int) -> Array:
    """Pad item numbers (B, L) to (B, length); rows that are long enough stay as they are."""
    item_ids_BxL = jnp.asarray(item_ids_BxL)
    return jnp.pad(item_ids_BxL, ((0, 0), (0, max(0, length - item_ids_BxL.shape[1]))))


def at_position(x_BxLxD: Array, position_B: Array, axis: str | None = None) -> Array:
    """Return the vector of row b at position[b] of the whole history, (B, D), on every device."""
    if axis is None:
        return jnp.take_along_axis(x_BxLxD, position_B[:, None, None], axis=1)[:, 0]
    length = x_BxLxD.shape[1]
    here_B = position_B // length == jax.lax.axis_index(axis)
    return jax.lax.psum(
        jnp.where(here_B[:, None], at_position(x_BxLxD, position_B % length), 0), axis
    )


def within(position_B: Array, length: int, axis: str | None) -> Array:
    """Return a position (or an end) in the whole history relative to this shard, in 0..L."""
    if axis is None:
        return position_B
    return jnp.clip(position_B - jax.lax.axis_index(axis) * length, 0, length)


def whole_length(length: int, axis: str | None) -> int:
    """Return the number of positions of all shards together."""
    return length if axis is None else length * jax.lax.axis_size(axis)


def neighbours(x_BxLxD: Array, count: int, axis: str | None, *, reverse: bool) -> Array:
    """Return the ``count`` positions before this shard (after it if reverse), (B, count, D).

    They are 0 at the end of the history. A shard must have at least ``count`` positions itself.
    """
    batch, length, d_model = x_BxLxD.shape
    if axis is None or count == 0:
        return jnp.zeros((batch, count, d_model), x_BxLxD.dtype)
    if length < count:
        raise ValueError(f"a shard of {length} positions, but a convolution reads {count} more")
    last = jax.lax.axis_size(axis) - 1
    if reverse:
        return jax.lax.ppermute(x_BxLxD[:, :count], axis, [(i + 1, i) for i in range(last)])
    return jax.lax.ppermute(x_BxLxD[:, -count:], axis, [(i, i + 1) for i in range(last)])
