"""Exact ranks of the targets among all items, tiled over users and items.

The rule, here and in ``rank_in_scores``: an item is ranked before the target unless its score is
*below* the target's. Ties and NaN therefore count against the model, and a model with equal scores
for all items has no hits. Padding (item 0) is not a candidate; with ``exclude_seen``, neither are
the items of the history, except for the target.

Dimension letters of this module: S seen items.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from echojax.compilation import compiler_options
from echojax.data import Examples
from echojax.evaluation.tiles import (
    TILE,
    Tile,
    Top,
    best,
    mass_of,
    merge_top,
    no_top,
    relative,
    score_tile,
    without,
)
from echojax.mesh import (
    DATA,
    MODEL,
    axes_of,
    batch_specs,
    local_rows,
    one_device,
    over_devices,
    padded_rows,
    spread,
    state_specs,
)
from echojax.sharded_embedding import first_row

TOP = 10  # how many recommended items are kept per example, for coverage and the like
TIES = "an item with the target's score, or NaN, is ranked before the target"

Encode = Callable[..., Array]
Items = Callable[[Any], Array]
Ranker = Callable[..., tuple[Array, Array, Array]]


class Ranked(NamedTuple):
    """Ranks of M targets (int32, 1 is best), and the best items of each example, (M, K) int32.

    The best items are in descending order of score, with ties by number. Items with a score of NaN
    or minus infinity are never recommended; if fewer than K items remain, the rest is 0.

    ``confidence_M`` is the softmax probability of the best item among the candidates, float32; 0 if
    there is no item, and ``None`` if the scores are not logits.
    """

    rank_M: np.ndarray
    top_MxK: np.ndarray
    confidence_M: np.ndarray | None = None


def make_ranker(
    encode: Encode,
    items: Items,
    *,
    num_items: int | None = None,
    top: int = TOP,
    tile: int = TILE,
    mesh: Mesh | None = None,
) -> Ranker:
    """Return a jitted ``rank(params, item_ids_BxL, lengths_B, targets_B, excluded_BxS, ...)``.

    ``excluded_BxS`` holds items that are not candidates, padded with 0. The last argument is
    ``gaps_BxL`` if the model reads the times between events. The result is ``(rank_B, top_BxK,
    confidence_B)``, as in ``Ranked``. Scores are ``user @ item.T`` in float32.

    Args:
        encode: A pure function ``(params, item_ids_BxL, lengths_B, *gaps_BxL) -> user_BxD``.
        items: A pure function ``params -> item_VxD``, or this device's shard of it.
        num_items: Rows from this one on are padding; ``None``: there are none.
        top: K, how many of the best items are returned.
        tile: How many items are scored at once; memory is (B, tile), independent of V.
        mesh: The devices over which histories and items are sharded (``None``: one device); every
            device gets all results.
    """
    mesh = mesh or one_device()
    axes = axes_of(mesh)
    data = tuple(axis for axis in axes.rows if axis != axes.items)

    def rank(
        params: Any,
        item_ids_BxL: Array,
        lengths_B: Array,
        targets_B: Array,
        excluded_BxS: Array,
        *gaps_BxL: Array,
    ) -> tuple[Array, Array, Array]:
        user_BxD = encode(params, item_ids_BxL, lengths_B, *gaps_BxL)
        # The target itself always stays a candidate.
        excluded_BxS = jnp.where(excluded_BxS == targets_B[:, None], 0, excluded_BxS)
        rows = (user_BxD, targets_B, excluded_BxS)
        if axes.items:  # each device ranks all histories among its own items
            rows = jax.lax.all_gather(rows, axes.items, tiled=True)
        ranked = _rank_tiles(*rows, items(params), num_items, top, tile, axes.items)
        return jax.lax.all_gather(ranked, data, tiled=True) if data else ranked

    def mapped(params: Any, item_ids_BxL: Array, *rows: Array) -> Any:
        windows, whole = batch_specs(item_ids_BxL), P((DATA, MODEL))
        in_specs = (state_specs(params), windows, *[whole] * 3, *[windows] * (len(rows) - 3))
        return over_devices(rank, mesh, in_specs, P())(params, item_ids_BxL, *rows)

    return jax.jit(mapped, compiler_options=compiler_options())


def _rank_tiles(
    user_BxD: Array,
    targets_B: Array,
    excluded_BxS: Array,
    item_VxD: Array,
    num_items: int | None,
    k: int,
    tile: int,
    axis: str | None,
) -> tuple[Array, Array, Array]:
    rows, batch = item_VxD.shape[0], user_BxD.shape[0]
    tile = min(tile, rows)
    firsts = jnp.arange(0, rows, tile, dtype=jnp.int32)
    before = first_row(item_VxD, axis) if axis else 0

    def scores(first: Array) -> Tile:
        scored = score_tile(user_BxD, item_VxD, first, tile, before)
        if num_items is None:
            return scored
        return scored._replace(candidate_C=scored.candidate_C & (scored.item_C < num_items))

    # The score of the target is taken from the same product as all others, because a score that is
    # computed in another way could differ in its last bit, and so break a tie.
    def find_target(found_B: Array, first: Array) -> tuple[Array, None]:
        item_C, candidate_C, score_BxC = scores(first)
        column_B = jnp.clip(targets_B - item_C[0], 0, tile - 1)
        score_B = jnp.take_along_axis(score_BxC, column_B[:, None], axis=1)[:, 0]
        here_B = (item_C[column_B] == targets_B) & candidate_C[column_B]
        return jnp.where(here_B, score_B, found_B), None

    target_B, _ = jax.lax.scan(find_target, jnp.zeros(batch, jnp.float32), firsts)
    if axis:  # it is 0 if the target is on another device
        target_B = jax.lax.psum(target_B, axis)

    Counted = tuple[Array, Top, Array]

    def count(found: Counted, first: Array) -> tuple[Counted, None]:
        rivals_B, top, mass_B = found
        scored = scores(first)
        candidate_BxC = without(excluded_BxS, scored)
        rival_BxC = candidate_BxC & (scored.item_C != targets_B[:, None])
        rival_BxC &= ~(scored.score_BxC < target_B[:, None])
        rivals_B += jnp.sum(rival_BxC, axis=1, dtype=jnp.int32)
        merged = merge_top(top, scored, candidate_BxC)
        mass_B = relative(mass_B, top, merged) + mass_of(scored, candidate_BxC, merged)
        return (rivals_B, merged, mass_B), None

    none = (jnp.zeros(batch, jnp.int32), no_top(batch, k), jnp.zeros(batch, jnp.float32))
    (rivals_B, top, mass_B), _ = jax.lax.scan(count, none, firsts)
    if axis:
        rivals_B = jax.lax.psum(rivals_B, axis)
        own, top = top, best(jax.lax.all_gather(top, axis, axis=1, tiled=True), k)
        mass_B = jax.lax.psum(relative(mass_B, own, top), axis)
    return 1 + rivals_B, top.item_BxK, jnp.where(mass_B > 0, 1 / mass_B, 0)


def rank_examples(
    ranker: Ranker,
    params: Any,
    examples: Examples,
    *,
    batch_size: int,
    exclude_seen: bool = False,
    mesh: Mesh | None = None,
) -> Ranked:
    """Rank the target of every example with a function from ``make_ranker``.

    The last batch is padded, so that it need not be compiled again. ``mesh`` must be that of the
    ranker; this process gathers the rows of its own devices.
    """
    mesh = mesh or one_device()
    batch_size, mine, results = padded_rows(batch_size, mesh), local_rows(batch_size, mesh), []
    for first in range(0, len(examples), batch_size):
        rows = np.arange(first, first + batch_size) % len(examples)
        batch = examples.gather(rows[mine])
        # It is computed for the whole batch, so that its width is the same on every host.
        excluded = seen(examples, rows) if exclude_seen else np.zeros((batch_size, 1), np.int32)
        inputs = [batch["item_ids"], batch["lengths"], batch["targets"], excluded[mine]]
        inputs += [batch["gaps"]] if "gaps" in batch else []
        # Results are read at the end, so that the next batch is gathered while this one runs.
        results.append(ranker(params, *spread(inputs, mesh)))
    columns = zip(*results, strict=True)
    return Ranked(*(np.concatenate(column)[: len(examples)] for column in columns))


def seen(examples: Examples, indices: np.ndarray) -> np.ndarray:
    """Return the whole histories, (B, S) int32 padded with 0; S is a power of two."""
    items, offsets = examples.histories(indices)
    lengths_B = np.diff(offsets)
    width = 1 << (int(lengths_B.max()) - 1).bit_length()  # few shapes, few compilations
    seen_BxS = np.zeros((indices.size, width), np.int32)
    seen_BxS[np.arange(width) < lengths_B[:, None]] = items
    return seen_BxS
