"""The order of a user's events: by exact or rounded times, with ties as in the file or random."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from echojax.errors import UserError


def as_float32(times_T: np.ndarray) -> np.ndarray:
    """Return times rounded to float32, as in RecBole, as float64.

    Neighbouring float32 numbers are 64 apart at 9.8e8, the epoch seconds of MovieLens.
    """
    with np.errstate(over="ignore"):
        rounded_T = times_T.astype(np.float32)
    if not np.isfinite(rounded_T).all():
        large = times_T[~np.isfinite(rounded_T)][0]
        raise UserError(f"--time-precision float32: time {large:g} is too large; leave it out")
    return rounded_T.astype(np.float64)


def random_seed(ties: str) -> int | None:
    """Return the seed of ``random:SEED``; ``None`` for ``file``; ``UserError`` for others."""
    if ties == "file":
        return None
    if found := re.fullmatch("random:([0-9]{1,18})", str(ties)):
        return int(found[1])
    raise UserError(f"--ties {ties!r:.40}: must be file, or random:SEED such as random:0")


def time_order(
    users_T: np.ndarray, times_T: np.ndarray | None, ties_seed: int | None = None
) -> np.ndarray:
    """Return the order of events by user, then time; ties stay in file order (stable sort).

    With ``ties_seed``, a user's events with the same time are in random order.
    """
    if ties_seed is not None:
        assert times_T is not None
        shuffled_T = np.random.default_rng(ties_seed).permutation(users_T.size)
        return shuffled_T[time_order(users_T[shuffled_T], times_T[shuffled_T])]
    if times_T is None:
        return np.argsort(users_T, kind="stable")
    first, last = times_T.min(), times_T.max()
    span = int(last) - int(first) + 1
    whole = times_T.dtype.kind == "i" or (
        span < 1 << 53 and np.array_equal(times_T, np.floor(times_T))
    )
    if whole and (int(users_T.max()) + 1) * span < 1 << 63:
        # Sorting by one integer key is several times faster than by two keys.
        key_T = users_T * np.int64(span) + (times_T - first).astype(np.int64)
        return np.argsort(key_T, kind="stable")
    return np.lexsort((times_T, users_T))


def rows_in_time_order(users_T: np.ndarray, times_T: np.ndarray) -> bool:
    """Return whether the rows of each user are in the order of time in the file.

    Such a file has probably been sorted after publication, and rounding times changes no order.
    """
    order_T = np.argsort(users_T, kind="stable")
    users_T, times_T = users_T[order_T], times_T[order_T]
    return not ((times_T[1:] < times_T[:-1]) & (users_T[1:] == users_T[:-1])).any()


def order_words(fingerprint: Mapping[str, Any]) -> str:
    """Describe the order of events with the same time, and the rounding of times."""
    order = fingerprint.get("order", {"ties": "file", "time_precision": "exact"})
    words = (
        "in the file's order" if order["ties"] == "file" else f"in a random order ({order['ties']})"
    )
    return f"{words}, times rounded to {order['time_precision']}".removesuffix(
        ", times rounded to exact"
    )
