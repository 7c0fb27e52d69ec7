"""Whole stretches of histories, for objectives that learn from every position of a pass."""

from dataclasses import dataclass

import numpy as np

from echojax.data.examples import Examples


@dataclass(frozen=True)
class Windows:
    """Stretches that hold each training target exactly once.

    A user's targets are cut from the newest on into stretches of ``max_len``; the oldest may be
    shorter. Position l of a row shows one item and asks for the next.

    Attributes:
        items_T: int32 histories of all users, one after another.
        first_M: int64 position in ``items_T`` of a stretch's first shown item.
        lengths_M: int32 shown items of a stretch.
        max_len: L.
    """

    items_T: np.ndarray
    first_M: np.ndarray
    lengths_M: np.ndarray
    max_len: int

    def __len__(self) -> int:
        return self.first_M.size

    @property
    def targets(self) -> int:
        """Number of targets in all stretches."""
        return int(self.lengths_M.sum())

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return stretches as arrays.

        Args:
            indices: int (B,) stretch numbers.

        Returns:
            ``item_ids`` and ``targets`` int32 (B, L), the second one step ahead of the first,
            right-padded with 0; ``lengths`` int32 (B,).
        """
        columns_L = np.arange(self.max_len)
        lengths_B = self.lengths_M[indices]
        inside_BxL = columns_L < lengths_B[:, None]
        positions_BxL = np.where(inside_BxL, self.first_M[indices][:, None] + columns_L, 0)
        return {
            "item_ids": self.items_T[positions_BxL] * inside_BxL,
            "lengths": lengths_B,
            "targets": self.items_T[positions_BxL + inside_BxL] * inside_BxL,
        }


def windows(train: Examples) -> Windows:
    """Return the stretches that hold the targets of training examples, each once.

    ``train`` lists each user's examples together in time order, without gaps.
    """
    user_M = train.user_M
    starts = np.flatnonzero(np.append(True, user_M[1:] != user_M[:-1]))
    counts = np.diff(starts, append=user_M.size)
    stretches = -(-counts // train.max_len)
    owner = np.repeat(np.arange(starts.size), stretches)
    # Numbered from the newest: stretch 0 ends at the user's last target.
    number = np.arange(owner.size) - np.repeat(np.cumsum(stretches) - stretches, stretches)
    stop = counts[owner] - number * train.max_len
    length = np.minimum(stop, train.max_len)
    first = train.target_M[starts[owner] + stop - length] - 1
    return Windows(train.items_T, first, length.astype(np.int32), train.max_len)
