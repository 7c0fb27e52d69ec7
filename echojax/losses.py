"""Training losses."""

import jax
import jax.numpy as jnp


def softmax_cross_entropy(
    user_BxD: jax.Array, item_VxD: jax.Array, targets_B: jax.Array, *, chunk: int | None = None
) -> jax.Array:
    """Return minus the log of the target's softmax probability over the whole catalogue, (B,).

    Args:
        user_BxD: one vector a history, any floating dtype; logits are float32 at least.
        item_VxD: the item table, padding in row 0 (a class like the others, as in RecBole).
        targets_B: the next items.
        chunk: items whose logits are held at once. The value is the same; no (B, V) array is made,
            forward or backward. ``None`` takes all items at once.
    """
    dtype = jnp.promote_types(user_BxD.dtype, jnp.float32)
    user_BxD, item_VxD = user_BxD.astype(dtype), item_VxD.astype(dtype)
    target_B = jnp.sum(user_BxD * item_VxD[targets_B], axis=-1)
    if chunk is None or chunk >= item_VxD.shape[0]:
        return jax.nn.logsumexp(user_BxD @ item_VxD.T, axis=-1) - target_B
    return _chunked_logsumexp(user_BxD, item_VxD, chunk) - target_B


def _chunked_logsumexp(user_BxD: jax.Array, item_VxD: jax.Array, chunk: int) -> jax.Array:
    """Return logsumexp over items, (B,), one chunk of items after the other."""
    num_items = item_VxD.shape[0]
    chunks = -(-num_items // chunk)

    @jax.checkpoint  # backward computes a chunk's logits again instead of keeping them all
    def add_chunk(total_B: jax.Array, first: jax.Array) -> tuple[jax.Array, None]:
        # The last chunk starts early enough to be full; what it shares with the one before it
        # is masked, so that the table is never padded or copied.
        start = jnp.minimum(first, num_items - chunk)
        items_KxD = jax.lax.dynamic_slice_in_dim(item_VxD, start, chunk)
        fresh_K = start + jnp.arange(chunk) >= first
        logits_BxK = jnp.where(fresh_K, user_BxD @ items_KxD.T, -jnp.inf)
        return jnp.logaddexp(total_B, jax.nn.logsumexp(logits_BxK, axis=-1)), None

    start_B = jnp.full(user_BxD.shape[0], -jnp.inf, user_BxD.dtype)
    return jax.lax.scan(add_chunk, start_B, jnp.arange(chunks) * chunk)[0]


def softmax_chunk(batch_size: int, num_items: int, limit_bytes: int = 2**28) -> int | None:
    """Return how many items a chunk keeps float32 logits below ``limit_bytes`` (None: all)."""
    if 4 * batch_size * num_items <= limit_bytes:
        return None
    return max(1024, limit_bytes // (4 * batch_size))
