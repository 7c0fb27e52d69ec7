"""The best items for each history, in memory that does not grow with the item set."""

import jax
import jax.numpy as jnp

from echojax.evaluation.tiles import Top, merge_top, no_top, score_tile, without

TILE = 2**15  # items scored at once


def top_k(
    user_BxD: jax.Array,
    item_VxD: jax.Array,
    excluded_BxS: jax.Array,
    num_items: jax.Array | int,
    *,
    k: int,
    recall: float | None = None,
    tile: int = TILE,
) -> Top:
    """Return the k items of the largest ``user @ item.T``, and these scores in float32.

    Pure, to be called under ``jax.jit``; besides its inputs it needs memory for (B, tile) scores.

    Args:
        user_BxD: what histories were encoded as.
        item_VxD: the items' vectors; row 0 is padding and never returned.
        excluded_BxS: items that must not be returned, int32, padded with 0.
        num_items: rows of ``item_VxD`` from here on are padding too.
        k: how many.
        recall: take a tile's best by ``lax.approx_max_k``, which is to find this share of them;
            ``None`` is exact. Only TPUs gain time by it; a CPU gives the exact answer anyway.
        tile: items scored at once.

    Returns:
        Scores and items, (B, k), in falling order of score, equal ones by number; item 0 with
        score minus infinity where there are fewer than k.
    """
    tile = min(tile, item_VxD.shape[0])

    def one_tile(top: Top, first: jax.Array) -> tuple[Top, None]:
        scored = score_tile(user_BxD, item_VxD, first, tile)
        candidate_BxC = without(excluded_BxS, scored) & (scored.item_C < num_items)
        return merge_top(top, scored, candidate_BxC, recall), None

    firsts = jnp.arange(0, item_VxD.shape[0], tile, dtype=jnp.int32)
    return jax.lax.scan(one_tile, no_top(user_BxD.shape[0], k), firsts)[0]
