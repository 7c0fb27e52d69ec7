"""Sampling of the negatives of a loss.

Negatives are drawn with replacement, with a key per row, so that the negatives of a row are the
same in any microbatch and on any device. Padding (item 0) is never drawn.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Draw = Callable[[Array, tuple[int, ...], Array], tuple[Array, Array]]
"""``draw(keys_B, shape, pool_M) -> (items (B, *shape), log of each one's probability)``."""


def uniform(counts_V: np.ndarray) -> Draw:
    """Draw every item with the same probability."""
    num_items = len(counts_V)
    log_q = jnp.float32(-np.log(num_items - 1))

    def draw(keys_B: Array, shape: tuple[int, ...], pool_M: Array) -> tuple[Array, Array]:
        items = jax.vmap(lambda key: jax.random.randint(key, shape, 1, num_items))(keys_B)
        return items, log_q

    return draw


def popularity(counts_V: np.ndarray) -> Draw:
    """Draw items in proportion to ``counts_V``."""
    num_items = len(counts_V)
    keep_V, alias_V = (jnp.asarray(table) for table in alias_tables(counts_V))
    log_q_V = log_shares(counts_V)

    def of_row(key: Array, shape: tuple[int, ...]) -> Array:
        first, second = jax.random.split(key)
        items = jax.random.randint(first, shape, 1, num_items)
        return jnp.where(jax.random.uniform(second, shape) < keep_V[items], items, alias_V[items])

    def draw(keys_B: Array, shape: tuple[int, ...], pool_M: Array) -> tuple[Array, Array]:
        items = jax.vmap(lambda key: of_row(key, shape))(keys_B)
        return items, log_q_V[items]

    return draw


def in_batch(counts_V: np.ndarray) -> Draw:
    """Draw among the targets of the whole batch, in proportion to their frequency in it.

    Since batches consist of shuffled examples, over many batches an item is drawn in proportion to
    how often it is a training target. This is the probability that is returned (Yi et al. 2019
    estimate it). With the shares in the batch, the corrected sum would estimate one over the items
    of the batch only, and rare items would hardly count.
    """
    log_q_V = log_shares(counts_V)

    def draw(keys_B: Array, shape: tuple[int, ...], pool_M: Array) -> tuple[Array, Array]:
        targets_M = pool_M[jnp.flatnonzero(pool_M, size=pool_M.size)]
        many = jnp.maximum(jnp.count_nonzero(pool_M), 1)
        chosen = jax.vmap(lambda key: jax.random.randint(key, shape, 0, many))(keys_B)
        items = targets_M[chosen]
        return items, log_q_V[items]

    return draw


NEGATIVES: dict[str, Callable[[np.ndarray], Draw]] = {
    "uniform": uniform,
    "popularity": popularity,
    "in-batch": in_batch,
}


def pool(targets: Array, weights_B: Array) -> Array:
    """Return the targets of a whole batch, (M,), with 0 for padding and filling rows.

    Args:
        targets: Item numbers (B,) or (B, L), padded with 0.
        weights_B: 0 for a row that only fills the batch.
    """
    real_B = weights_B != 0
    return jnp.where(real_B if targets.ndim == 1 else real_B[:, None], targets, 0).ravel()


def log_shares(counts_V: np.ndarray) -> Array:
    """Return the log of each item's share of all ``counts_V``, (V,); counts below 1 are 1."""
    return jnp.asarray(np.log(np.maximum(counts_V, 1) / counts_V.sum()), jnp.float32)


def alias_tables(counts_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Walker's alias tables, by which items are drawn in proportion to their counts.

    Items lighter than the mean are filled up by heavier ones, in order, until all have the same
    share (the sweep of Huebschle-Schneider and Sanders 2022, here without a loop). The computation
    is in integers, so that a share of 1e-9 is as exact as any other.

    Args:
        counts_V: Integers, 0 for padding (item 0).

    Returns:
        ``keep_V`` float32, the probability that a uniformly drawn item is kept, and ``alias_V``
        int32, the item that replaces it otherwise.
    """
    counts = np.asarray(counts_V, np.int64)[1:]
    full = counts.sum()  # the share of each item once it is filled, in units of 1 / (V - 1)
    weights = counts * counts.size
    light, heavy = np.flatnonzero(weights < full), np.flatnonzero(weights >= full)
    lacking = np.append(0, np.cumsum(full - weights[light]))
    spare = np.cumsum(weights[heavy] - full)
    kept, alias = weights, np.arange(counts.size)
    # A light item takes what it lacks from the first heavy item that is not used up.
    alias[light] = heavy[np.searchsorted(spare, lacking[:-1], side="right")]
    # If a heavy item gives more than it can spare, the next heavy item fills it up.
    kept[heavy] = full - (lacking[np.searchsorted(lacking, spare)] - spare)
    alias[heavy[:-1]] = heavy[1:]
    keep_V = np.append(0, kept / full).astype(np.float32)
    return keep_V, np.append(0, alias + 1).astype(np.int32)
