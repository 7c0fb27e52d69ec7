"""A prepared data set: every user's history in time order, and its fingerprint."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from echojax.data.examples import Examples

Predictor = Callable[["Examples", np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """Histories of all users, one after another.

    Attributes:
        name: What the data is called in results.
        items_T: int32 item numbers 1..num_items-1, users one after another, in time order.
        times_T: times in the source's unit, float64, or int64 where float64 is not exact;
            positions where it has none.
        offsets: int64 (U+1,); user u's history is ``items_T[offsets[u]:offsets[u+1]]``.
        user_ids: str (U,), the source's own user ids.
        item_ids: str (V,), the source's own item ids; number 0 is padding, its id "".
        fingerprint: What identifies the data in results; JSON-able.
        optimum: For generated data, the best possible predictor: given examples and indices
            its exact distribution of the next item, float64 (B, V). None for real data.
    """

    name: str
    items_T: np.ndarray
    times_T: np.ndarray
    offsets: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    fingerprint: dict[str, Any]
    optimum: Predictor | None = field(default=None, compare=False)

    @property
    def num_items(self) -> int:
        """Catalogue size V, padding included."""
        return len(self.item_ids)

    @property
    def num_users(self) -> int:
        """Number of users U."""
        return len(self.offsets) - 1


def describe(
    items_T: np.ndarray,
    times_T: np.ndarray,
    offsets: np.ndarray,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
) -> dict[str, Any]:
    """Return the part of the fingerprint that the prepared arrays determine.

    Keys: ``users``, ``items``, ``interactions``; ``history_length`` (min, 25, 50, 75, 95 per
    cent and max); ``tie_share`` (share of adjacent events of a user with equal times);
    ``sha256`` of the arrays.
    """
    lengths = np.diff(offsets)
    users_T = np.repeat(np.arange(lengths.size), lengths)
    same_user = users_T[1:] == users_T[:-1]
    ties = same_user & (times_T[1:] == times_T[:-1])
    quantiles = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 0.95, 1], method="lower")
    names = ("min", "25", "50", "75", "95", "max")
    return {
        "users": int(lengths.size),
        "items": int(item_ids.size - 1),
        "interactions": int(items_T.size),
        "history_length": dict(zip(names, quantiles.tolist(), strict=True)),
        "tie_share": float(ties.sum() / max(1, same_user.sum())),
        "sha256": arrays_sha256(items_T, times_T, offsets, user_ids, item_ids),
    }


def arrays_sha256(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of arrays: numbers as little-endian bytes, strings as UTF-8 lines."""
    digest = hashlib.sha256()
    for array in arrays:
        if array.dtype.kind == "U":
            digest.update("\n".join(array.tolist()).encode())
        else:
            digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()
