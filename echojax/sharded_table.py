"""A table of one row an item of which each device of an axis has a part: rows looked up in it."""

import jax
import jax.numpy as jnp


def first_row(table_CxD: jax.Array, axis: str) -> jax.Array:
    """Return which item this device's part begins with."""
    return jax.lax.axis_index(axis) * table_CxD.shape[0]


def look_up(table_CxD: jax.Array, items: jax.Array, axis: str | None) -> jax.Array:
    """Return the rows of this device's ``items``, (..., D).

    Each device looks the items of all up in its part, and those it has go to whoever asked: the
    exchange is as large as the result on each device, and so it is for the gradient, which needs
    no array but the part's own.

    Args:
        table_CxD: this device's part of the table; the whole of it without ``axis``.
        items: item numbers, as many on every device.
        axis: the mapped axis that the table is spread over.
    """
    if axis is None:
        return table_CxD[items]
    asked_G = jax.lax.all_gather(items.ravel(), axis, tiled=True)
    row_G = asked_G - first_row(table_CxD, axis)
    here_G = (row_G >= 0) & (row_G < table_CxD.shape[0])
    found_GxD = jnp.where(here_G[:, None], table_CxD[jnp.where(here_G, row_G, 0)], 0)
    mine_MxD = jax.lax.psum_scatter(found_GxD, axis, tiled=True)
    return mine_MxD.reshape(*items.shape, table_CxD.shape[1])
