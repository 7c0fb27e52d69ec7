"""Scoring the item set in tiles of columns, and keeping the best items so far.

Dimension letters of this module: C columns of a tile, S excluded items.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

TILE = 2**15  # items scored at once


class Tile(NamedTuple):
    """Scores of neighbouring items."""

    item_C: Array  # the columns' items, int32
    candidate_C: Array  # whether a column is to be ranked in this tile
    score_BxC: Array  # float32


def score_tile(
    user_BxD: Array, item_VxD: Array, first: Array, tile: int, before: Array | int = 0
) -> Tile:
    """Score the items from row ``first`` on; all tiles have the same size, and the last overlaps.

    ``before`` is the number of items before the first row, if the table is a shard.
    """
    start = jnp.minimum(first, item_VxD.shape[0] - tile)
    row_C = start + jnp.arange(tile, dtype=jnp.int32)
    item_C = before + row_C
    item_CxD = jax.lax.dynamic_slice_in_dim(item_VxD, start, tile)
    score_BxC = jnp.matmul(
        user_BxD.astype(jnp.float32),
        item_CxD.astype(jnp.float32).T,
        precision=jax.lax.Precision.HIGHEST,
    )
    return Tile(item_C, (row_C >= first) & (item_C != 0), score_BxC)


def without(excluded_BxS: Array, tile: Tile) -> Array:
    """Return which columns are candidates for each user, (B, C); 0 stands for no excluded item."""
    columns = tile.item_C.size
    candidate_BxC = jnp.broadcast_to(tile.candidate_C, tile.score_BxC.shape)
    column_BxS = excluded_BxS - tile.item_C[0]
    # Columns outside the tile are dropped; negative indices would count from the end.
    column_BxS = jnp.where((excluded_BxS > 0) & (column_BxS >= 0), column_BxS, columns)
    rows_Bx1 = jnp.arange(excluded_BxS.shape[0])[:, None]
    return candidate_BxC.at[rows_Bx1, column_BxS].set(False, mode="drop")


class Top(NamedTuple):
    """The K best items so far, in descending order of score, with ties by number."""

    score_BxK: Array  # float32; minus infinity if fewer than K items were found
    item_BxK: Array  # int32; 0 if fewer than K items were found


def no_top(batch: int, k: int) -> Top:
    """Return the initial value, without any items."""
    return Top(jnp.full((batch, k), -jnp.inf, jnp.float32), jnp.zeros((batch, k), jnp.int32))


def merge_top(top: Top, tile: Tile, candidate_BxC: Array, recall: float | None = None) -> Top:
    """Return the best of the items so far and the candidates of a later tile.

    Items with a score of NaN or minus infinity are never among them. With ``recall``, the best of a
    tile are found by ``lax.approx_max_k``, which finds at least this share; ``None`` is exact.
    """
    k, columns = top.score_BxK.shape[1], tile.item_C.size
    score_BxC = jnp.where(candidate_BxC & ~jnp.isnan(tile.score_BxC), tile.score_BxC, -jnp.inf)
    if recall is None:
        score_BxK, column_BxK = jax.lax.top_k(score_BxC, min(k, columns))
    else:
        score_BxK, column_BxK = jax.lax.approx_max_k(
            score_BxC, min(k, columns), recall_target=recall
        )
    item_BxK = jnp.where(score_BxK > -jnp.inf, tile.item_C[column_BxK], 0)
    return best(
        Top(jnp.hstack([top.score_BxK, score_BxK]), jnp.hstack([top.item_BxK, item_BxK])), k
    )


def best(top: Top, k: int) -> Top:
    """Return the k best of more items, (B, > k), of which ties are sorted by number."""
    score_BxK, place_BxK = jax.lax.top_k(top.score_BxK, k)
    return Top(score_BxK, jnp.take_along_axis(top.item_BxK, place_BxK, axis=1))


def mass_of(tile: Tile, candidate_BxC: Array, top: Top) -> Array:
    """Return the sum of exp(score - best score) over the candidates of a tile, (B,), without NaN.

    The inverse of the sum over all tiles is the softmax probability of the best item.
    """
    shown_BxC = candidate_BxC & (tile.score_BxC > -jnp.inf)
    exp_BxC = jnp.exp(tile.score_BxC - top.score_BxK[:, :1])
    return jnp.sum(jnp.where(shown_BxC, exp_BxC, 0), axis=1)


def relative(mass_B: Array, top: Top, new: Top) -> Array:
    """Convert a mass relative to the best of ``top`` into one relative to the best of ``new``."""
    return jnp.where(mass_B > 0, mass_B * jnp.exp(top.score_BxK[:, 0] - new.score_BxK[:, 0]), 0)


def top_k(
    user_BxD: Array,
    item_VxD: Array,
    excluded_BxS: Array,
    num_items: Array | int,
    *,
    k: int,
    recall: float | None = None,
    tile: int = TILE,
) -> Top:
    """Return the k items with the largest ``user @ item.T``, and these scores in float32.

    The function is pure, and meant to be called under ``jax.jit``; besides its inputs, it needs
    memory for (B, tile) scores. The results are (B, k), in descending order of score, with ties by
    number; if there are fewer than k items, the rest has score minus infinity and item 0. Row 0 of
    the items' vectors is padding, as are the rows from ``num_items`` on. The items in
    ``excluded_BxS``, int32, padded with 0, are not returned either.

    With ``recall``, the best of a tile are found by ``lax.approx_max_k`` with this target; ``None``
    is exact. Only TPUs gain time by it; on a CPU the result is exact anyway.
    """
    tile = min(tile, item_VxD.shape[0])

    def one_tile(top: Top, first: Array) -> tuple[Top, None]:
        scored = score_tile(user_BxD, item_VxD, first, tile)
        candidate_BxC = without(excluded_BxS, scored) & (scored.item_C < num_items)
        return merge_top(top, scored, candidate_BxC, recall), None

    firsts = jnp.arange(0, item_VxD.shape[0], tile, dtype=jnp.int32)
    return jax.lax.scan(one_tile, no_top(user_BxD.shape[0], k), firsts)[0]
