"""Training and evaluation examples: (prefix of a history -> next item), made when asked for."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Examples:
    """An index of examples; nothing of size examples x length is ever held.

    Attributes:
        items_T: int32 histories of all users, one after another.
        start_M: int64 position in ``items_T`` where the example's user begins.
        target_M: int64 position in ``items_T`` of the item to predict; at least one item of the
            same user lies before it.
        user_M: int32 user numbers.
        max_len: L, how many of the newest items an example shows.
    """

    items_T: np.ndarray
    start_M: np.ndarray
    target_M: np.ndarray
    user_M: np.ndarray
    max_len: int

    def __len__(self) -> int:
        return self.target_M.size

    @property
    def lengths_M(self) -> np.ndarray:  # noqa: N802
        """How many items each example shows."""
        return np.minimum(self.target_M - self.start_M, self.max_len)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return examples as arrays.

        Args:
            indices: int (B,) example numbers.

        Returns:
            ``item_ids`` int32 (B, L), the newest L items before the target, oldest first,
            right-padded with 0; ``lengths`` int32 (B,); ``targets`` int32 (B,).
        """
        target_B = self.target_M[indices]
        lengths_B = np.minimum(target_B - self.start_M[indices], self.max_len)
        columns_L = np.arange(self.max_len)
        positions_BxL = (target_B - lengths_B)[:, None] + columns_L
        # Past the end of the last history there is nothing to read; the mask hides the rest.
        item_ids_BxL = np.take(self.items_T, positions_BxL, mode="clip")
        item_ids_BxL *= columns_L < lengths_B[:, None]
        return {
            "item_ids": item_ids_BxL,
            "lengths": lengths_B.astype(np.int32),
            "targets": self.items_T[target_B],
        }

    def histories(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return everything before the targets, not cut to ``max_len``.

        Args:
            indices: int (B,) example numbers.

        Returns:
            ``items`` int32 and ``offsets`` int64 (B+1,): the items that example b's user met
            before its target are ``items[offsets[b]:offsets[b+1]]``.
        """
        start_B = self.start_M[indices]
        lengths_B = self.target_M[indices] - start_B
        offsets = np.concatenate([[0], np.cumsum(lengths_B)])
        positions = np.arange(offsets[-1]) + np.repeat(start_B - offsets[:-1], lengths_B)
        return self.items_T[positions], offsets
