"""From interactions to a data set: duplicates, k-core, order, numbering (design section 5)."""

from typing import Any

import numpy as np

from echojax.data.dataset import Dataset, describe
from echojax.data.readers import Interactions
from echojax.errors import UserError, unknown_name

DUPLICATES = ("keep", "first", "last")


def prepare(
    name: str, source: Interactions, *, k_core: int = 5, duplicates: str = "keep"
) -> Dataset:
    """Order interactions by user and time, drop what the k-core drops, number the rest.

    Args:
        name: The data set's name.
        source: Interactions in file order; equal times of a user keep that order.
        k_core: Keep users and items with at least this many interactions each, iterated until
            nothing changes; 0 or 1 keeps all.
        duplicates: What to do when a user meets an item again: ``keep`` all events, as RecBole
            does, or only the ``first`` or ``last``.

    Raises:
        UserError: Fewer than two users or items are left.
    """
    if duplicates not in DUPLICATES:
        raise unknown_name("--duplicates", duplicates, list(DUPLICATES))
    order = time_order(source.users_T, source.times_T)
    users_T, items_T = source.users_T[order], source.items_T[order]
    times_T = _positions(users_T) if source.times_T is None else source.times_T[order]
    positional = source.times_T is None or bool(np.array_equal(times_T, _positions(users_T)))
    repeated = repeated_pairs(users_T, items_T, duplicates)
    raw = {
        "users": len(source.user_ids),
        "items": len(source.item_ids),
        "interactions": int(users_T.size),
    }
    facts: dict[str, Any] = {
        "raw": raw,
        "k_core": k_core,
        "duplicates": {"pairs": int(repeated.sum()), "handling": duplicates},
        "time": "position" if positional else "source",
    }
    keep = np.ones(users_T.size, bool) if duplicates == "keep" else ~repeated
    keep &= in_core(users_T, items_T, keep, k_core)
    users_T, items_T, times_T = users_T[keep], items_T[keep], times_T[keep]
    user_numbers, users_T = _renumbered(users_T)
    item_numbers, items_T = _renumbered(items_T)
    if user_numbers.size < 2 or item_numbers.size < 2:
        raise UserError(
            f"{name}: {user_numbers.size} users and {item_numbers.size} items are left of "
            f"{raw['users']} users, {raw['items']} items and {raw['interactions']} interactions "
            f"after --k-core {k_core}; at least two of each are needed, try a smaller --k-core"
        )
    arrays = {
        "items_T": (items_T + 1).astype(np.int32),
        "times_T": times_T,
        "offsets": np.concatenate([[0], np.cumsum(np.bincount(users_T))]),
        "user_ids": source.user_ids[user_numbers],
        "item_ids": np.concatenate([[""], source.item_ids[item_numbers]]),
    }
    return Dataset(name=name, **arrays, fingerprint=describe(**arrays) | facts)


def time_order(users_T: np.ndarray, times_T: np.ndarray | None) -> np.ndarray:
    """Return the order by user, then time; ties stay in file order (stable sort)."""
    if times_T is None:
        return np.argsort(users_T, kind="stable")
    first, last = times_T.min(), times_T.max()
    span = int(last) - int(first) + 1
    whole = times_T.dtype.kind == "i" or (
        span < 1 << 53 and np.array_equal(times_T, np.floor(times_T))
    )
    if whole and (int(users_T.max()) + 1) * span < 1 << 63:
        # One integer key sorts several times faster than two keys do.
        key_T = users_T * np.int64(span) + (times_T - first).astype(np.int64)
        return np.argsort(key_T, kind="stable")
    return np.lexsort((times_T, users_T))


def _renumbered(codes_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes that occur, in order, and for each event the index of its code there."""
    occurs = np.bincount(codes_T) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs, dtype=np.int32) - 1)[codes_T]


def _positions(users_T: np.ndarray) -> np.ndarray:
    """Return each event's position in its user's history, float64; users must be grouped."""
    first = np.flatnonzero(np.diff(users_T, prepend=-1))
    return np.arange(users_T.size) - np.repeat(
        first.astype(np.float64), np.diff(np.append(first, users_T.size))
    )


def repeated_pairs(users_T: np.ndarray, items_T: np.ndarray, handling: str) -> np.ndarray:
    """Return which events repeat a (user, item) pair: all but its first, or last, event."""
    pairs = users_T.astype(np.int64) * (int(items_T.max()) + 1) + items_T
    if handling == "last":
        pairs = pairs[::-1]
    order = np.argsort(pairs, kind="stable")
    repeated = np.zeros(pairs.size, bool)
    repeated[order[1:]] = pairs[order[1:]] == pairs[order[:-1]]
    return repeated[::-1] if handling == "last" else repeated


def in_core(users_T: np.ndarray, items_T: np.ndarray, keep: np.ndarray, k: int) -> np.ndarray:
    """Return which events lie in the k-core of the user-item graph of the kept events.

    The k-core is unique: users and items with fewer than ``k`` events are removed until none is
    left.
    """
    keep, kept = keep.copy(), -1
    while kept != (kept := int(keep.sum())):
        for codes in (users_T, items_T):
            counts = np.bincount(codes[keep], minlength=int(codes.max()) + 1)
            keep &= counts[codes] >= k
    return keep
