"""Exact ranks of the targets among all items, tiled over users and items.

The rule, here and in the NumPy twin for dense scores: an item counts as ranked before the target
unless its score is *below* the target's. So ties and NaN count against the model, and one that
scores everything alike gets no hit. Padding (item 0) is no candidate; with ``exclude_seen`` the
items of the history are none either, except the target itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from echojax.data import Examples

TOP = 10  # how many recommended items are kept an example, for coverage and popularity
TIES = "an item with the target's score, or NaN, is ranked before the target"

Encode = Callable[[Any, jax.Array, jax.Array], jax.Array]
Items = Callable[[Any], jax.Array]
Ranker = Callable[..., tuple[jax.Array, jax.Array]]


class Ranked(NamedTuple):
    """Ranks of M targets (int32, 1 is best) and each example's best items, (M, TOP) int32.

    Where the catalogue has fewer than TOP candidates the missing items are 0.
    """

    rank_M: np.ndarray
    top_MxK: np.ndarray


def make_ranker(encode: Encode, items: Items, *, tile: int = 2**15) -> Ranker:
    """Return a jitted ``rank(params, item_ids_BxL, lengths_B, targets_B, excluded_BxS)``.

    Args:
        encode: pure ``(params, item_ids_BxL, lengths_B) -> user_BxD``.
        items: pure ``params -> item_VxD``; the scores are ``user @ item.T`` in float32.
        tile: items scored at once; memory is (B, tile) and does not grow with the catalogue.

    ``excluded_BxS`` holds items that are no candidates, padded with 0. The result is
    ``(rank_B, top_BxK)``, int32.
    """

    @jax.jit
    def rank(
        params: Any, item_ids_BxL: jax.Array, lengths_B: jax.Array, targets_B: jax.Array,
        excluded_BxS: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:  # fmt: skip
        user_BxD = encode(params, item_ids_BxL, lengths_B).astype(jnp.float32)
        # The target itself always stays a candidate.
        excluded_BxS = jnp.where(excluded_BxS == targets_B[:, None], 0, excluded_BxS)
        return _rank_tiles(user_BxD, items(params), targets_B, excluded_BxS, tile)

    return rank


def _rank_tiles(
    user_BxD: jax.Array, item_VxD: jax.Array, targets_B: jax.Array, excluded_BxS: jax.Array,
    tile: int,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    num_items, batch = item_VxD.shape[0], user_BxD.shape[0]
    tile = min(tile, num_items)
    starts = jnp.arange(-(-num_items // tile)) * tile

    def scores_of(first: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the first item of a full tile, its scores, and which columns are its own."""
        start = jnp.minimum(first, num_items - tile)  # the last tile overlaps the one before
        table = jax.lax.dynamic_slice_in_dim(item_VxD, start, tile).astype(jnp.float32)
        scores = jnp.matmul(user_BxD, table.T, precision=jax.lax.Precision.HIGHEST)
        return start, scores, start + jnp.arange(tile) >= first

    def find_target(found_B: jax.Array, first: jax.Array) -> tuple[jax.Array, None]:
        start, scores, own = scores_of(first)
        column_B = targets_B - start
        inside_B = (column_B >= 0) & (column_B < tile) & own[jnp.clip(column_B, 0, tile - 1)]
        score_B = jnp.take_along_axis(scores, jnp.clip(column_B, 0, tile - 1)[:, None], 1)[:, 0]
        return jnp.where(inside_B, score_B, found_B), None

    # The target's score comes from the same product as all others: a score computed in another
    # way could differ in its last bit and win or lose against an equal one.
    target_B = jax.lax.scan(find_target, jnp.zeros(batch, jnp.float32), starts)[0]

    def count(
        carry: tuple[jax.Array, jax.Array, jax.Array], first: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], None]:
        rank_B, best_BxK, top_BxK = carry
        start, scores, own = scores_of(first)
        candidate = own & (start + jnp.arange(tile) != 0)
        column_BxS = jnp.where(excluded_BxS == 0, -1, excluded_BxS - start)
        # Columns outside the tile are dropped; negative ones must not count from the end.
        column_BxS = jnp.where(column_BxS < 0, tile, column_BxS)
        candidate = jnp.broadcast_to(candidate, scores.shape)
        candidate = candidate.at[jnp.arange(batch)[:, None], column_BxS].set(False, mode="drop")
        # The target is among its own ties, so the count is its rank already.
        rank_B += jnp.sum(candidate & ~(scores < target_B[:, None]), axis=1, dtype=jnp.int32)
        scores = jnp.where(candidate & ~jnp.isnan(scores), scores, -jnp.inf)
        best, column = jax.lax.top_k(scores, min(TOP, tile))
        item = jnp.where(best > -jnp.inf, start + column, 0)
        best, column = jax.lax.top_k(jnp.concatenate([best_BxK, best], 1), TOP)
        item = jnp.take_along_axis(jnp.concatenate([top_BxK, item], 1), column, 1)
        return (rank_B, best, item), None

    empty = (
        jnp.zeros(batch, jnp.int32),
        jnp.full((batch, TOP), -jnp.inf, jnp.float32),
        jnp.zeros((batch, TOP), jnp.int32),
    )
    (rank_B, _, top_BxK), _ = jax.lax.scan(count, empty, starts)
    return rank_B, top_BxK


def rank_examples(
    ranker: Ranker, params: Any, examples: Examples, *, batch_size: int, exclude_seen: bool = False
) -> Ranked:
    """Rank every example's target with a function from ``make_ranker``.

    Args:
        ranker: what ``make_ranker`` returned.
        params: its first argument.
        examples: M examples.
        batch_size: histories ranked at once; the last batch is filled up, not compiled anew.
        exclude_seen: leave items of the history out of the ranking.
    """
    ranks, tops = [], []
    for first in range(0, len(examples), batch_size):
        rows = np.arange(first, min(first + batch_size, len(examples)))
        filled = np.resize(rows, batch_size)
        batch = examples.gather(filled)
        excluded = seen(examples, filled) if exclude_seen else np.zeros((batch_size, 1), np.int32)
        rank_B, top_BxK = ranker(
            params, batch["item_ids"], batch["lengths"], batch["targets"], excluded
        )
        ranks.append(np.asarray(rank_B)[: rows.size])
        tops.append(np.asarray(top_BxK)[: rows.size])
    return Ranked(np.concatenate(ranks), np.concatenate(tops))


def seen(examples: Examples, indices: np.ndarray) -> np.ndarray:
    """Return the whole histories, (B, S) int32 padded with 0; S is a power of two."""
    items, offsets = examples.histories(indices)
    lengths_B = np.diff(offsets)
    width = 1 << max(0, int(lengths_B.max()) - 1).bit_length()  # few shapes, few compilations
    seen_BxS = np.zeros((indices.size, width), np.int32)
    seen_BxS[np.arange(width) < lengths_B[:, None]] = items
    return seen_BxS


def rank_in_scores(
    scores_BxV: np.ndarray, targets_B: np.ndarray, excluded_BxS: np.ndarray | None = None
) -> Ranked:
    """Rank targets in dense scores by the module's rule; for baselines, in tiles of users.

    Which of several equal items make the TOP is left open.

    Args:
        scores_BxV: any float dtype, column 0 is padding. Not changed.
        targets_B: item numbers.
        excluded_BxS: items that are no candidates, padded with 0.
    """
    batch, num_items = scores_BxV.shape
    rows = np.arange(batch)
    candidate = np.ones(scores_BxV.shape, bool)
    if excluded_BxS is not None:
        candidate[rows[:, None], excluded_BxS] = False
    candidate[:, 0] = False
    candidate[rows, targets_B] = True
    target_Bx1 = scores_BxV[rows, targets_B][:, None]
    rank_B = np.sum(candidate & ~(scores_BxV < target_Bx1), axis=1, dtype=np.int32)
    costs = np.where(candidate & ~np.isnan(scores_BxV), -scores_BxV, np.inf)
    best_BxK = np.argpartition(costs, min(TOP, num_items) - 1, axis=1)[:, :TOP].astype(np.int32)
    order = np.argsort(np.take_along_axis(costs, best_BxK, 1), axis=1, kind="stable")
    best_BxK = np.take_along_axis(best_BxK, order, 1)
    best_BxK[np.take_along_axis(costs, best_BxK, 1) == np.inf] = 0
    return Ranked(rank_B, np.pad(best_BxK, ((0, 0), (0, max(0, TOP - num_items)))))
