"""A table of one row an item, whole or of which each device of an axis has a part: rows of it."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array


def first_row(table_CxD: Array, axis: str) -> Array:
    """Return which item this device's part begins with."""
    return jax.lax.axis_index(axis) * table_CxD.shape[0]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def embedding_lookup(table_CxD: Array, items: Array, axis: str | None) -> tuple[Array, Array]:
    """Return the rows of this device's ``items``, (..., D), and the table.

    Whoever reads on in the table that is returned, not in the one that was given, has all rows'
    gradients added to one array as large as the table, in place. Otherwise each look-up would make
    such an array, and the sum of all, of its own.

    With ``axis``, over which the table is spread, each device looks the items of all, as many of
    each, up in its part, and those it has go to whoever asked: the exchange is as large as the
    result on each device, for the gradient too.
    """
    return _rows(table_CxD, items, axis), table_CxD


def _rows(table_CxD: Array, items: Array, axis: str | None) -> Array:
    if axis is None:
        return table_CxD[items]
    row_G, here_G = _asked(table_CxD, items, axis)
    found_GxD = jnp.where(here_G[:, None], table_CxD[jnp.where(here_G, row_G, 0)], 0)
    mine_MxD = jax.lax.psum_scatter(found_GxD, axis, tiled=True)
    return mine_MxD.reshape(*items.shape, table_CxD.shape[1])


def _asked(table_CxD: Array, items: Array, axis: str) -> tuple[Array, Array]:
    """Return where the items that all devices ask for are in this part, and which are."""
    row_G = jax.lax.all_gather(items.ravel(), axis, tiled=True) - first_row(table_CxD, axis)
    return row_G, (row_G >= 0) & (row_G < table_CxD.shape[0])


def _forward(table_CxD: Array, items: Array, axis: str | None) -> tuple[tuple[Array, Array], Array]:
    return embedding_lookup(table_CxD, items, axis), items


def _backward(
    axis: str | None, items: Array, by_results: tuple[Array, Array]
) -> tuple[Array, None]:
    by_rows, by_table_CxD = by_results
    by_MxD, row_M = by_rows.reshape(-1, by_rows.shape[-1]), items.ravel()
    if axis is not None:
        row_M, here_M = _asked(by_table_CxD, items, axis)
        row_M = jnp.where(here_M, row_M, by_table_CxD.shape[0])  # others' are dropped
        by_MxD = jax.lax.all_gather(by_MxD, axis, tiled=True)
    return by_table_CxD.at[row_M].add(by_MxD, mode="drop"), None


embedding_lookup.defvjp(_forward, _backward)
