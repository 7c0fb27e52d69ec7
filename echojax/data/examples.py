"""Examples (prefix of a history -> next item) and windows of histories, gathered on demand."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Examples:
    """An index of examples; no array of size examples x length is ever held.

    Every target has at least one earlier item of the same user.
    """

    items_T: np.ndarray  # int32 histories of all users, one after another
    start_M: np.ndarray  # int64 position in ``items_T`` where the history begins
    target_M: np.ndarray  # int64 position in ``items_T`` of the item to predict
    user_M: np.ndarray  # int32 user numbers
    max_len: int  # L, the largest number of items in an example: the newest ones
    gaps_T: np.ndarray | None = None  # float32 log gap of each event (``echojax.data.gaps``)

    def __len__(self) -> int:
        return self.target_M.size

    def at(self, indices: np.ndarray) -> "Examples":
        """Return the examples with these numbers."""
        columns = {"start_M": self.start_M, "target_M": self.target_M, "user_M": self.user_M}
        return replace(self, **{name: column[indices] for name, column in columns.items()})

    @property
    def lengths_M(self) -> np.ndarray:  # noqa: N802
        """The number of items in each example."""
        return np.minimum(self.target_M - self.start_M, self.max_len)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the examples with these numbers as a batch of arrays.

        ``item_ids`` int32 (B, L) are the newest L items before the target, oldest first, right
        padded with 0; ``lengths`` int32 (B,); ``targets`` int32 (B,). Examples with gaps also have
        ``gaps`` float32 (B, L), which are 0 at the first item.
        """
        target_B = self.target_M[indices]
        lengths_B = np.minimum(target_B - self.start_M[indices], self.max_len)
        columns_L = np.arange(self.max_len)
        positions_BxL = (target_B - lengths_B)[:, None] + columns_L
        # Positions past the last history are clipped; the mask hides what they read.
        item_ids_BxL = np.take(self.items_T, positions_BxL, mode="clip")
        item_ids_BxL *= columns_L < lengths_B[:, None]
        return {
            "item_ids": item_ids_BxL,
            "lengths": lengths_B.astype(np.int32),
            "targets": self.items_T[target_B],
            **_gaps_of_batch(self.gaps_T, positions_BxL, columns_L < lengths_B[:, None]),
        }

    def histories(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all items before the targets of examples, not cut to ``max_len``.

        The items of example b, int32, are ``items[offsets[b]:offsets[b+1]]``; ``offsets`` are int64
        (B+1,).
        """
        start_B = self.start_M[indices]
        lengths_B = self.target_M[indices] - start_B
        offsets = np.concatenate([[0], np.cumsum(lengths_B)])
        positions = np.arange(offsets[-1]) + np.repeat(start_B - offsets[:-1], lengths_B)
        return self.items_T[positions], offsets


@dataclass(frozen=True)
class Windows:
    """Windows of histories that hold each training target exactly once.

    A user's targets are cut into windows of ``max_len``, beginning with the newest; the oldest
    window may be shorter. Each position of a window shows one item and has the next as its target.
    """

    items_T: np.ndarray  # int32 histories of all users, one after another
    first_M: np.ndarray  # int64 position in ``items_T`` of the first item of a window
    lengths_M: np.ndarray  # int32 number of items of a window
    max_len: int  # L
    gaps_T: np.ndarray | None = None  # as in ``Examples``

    def __len__(self) -> int:
        return self.first_M.size

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the windows with these numbers as a batch of arrays.

        ``item_ids`` and ``targets`` are int32 (B, L), the second one step ahead of the first, right
        padded with 0; ``lengths`` are int32 (B,), and ``gaps`` as in ``Examples.gather``.
        """
        columns_L = np.arange(self.max_len)
        lengths_B = self.lengths_M[indices]
        inside_BxL = columns_L < lengths_B[:, None]
        positions_BxL = np.where(inside_BxL, self.first_M[indices][:, None] + columns_L, 0)
        return {
            "item_ids": self.items_T[positions_BxL] * inside_BxL,
            "lengths": lengths_B,
            "targets": self.items_T[positions_BxL + inside_BxL] * inside_BxL,
            **_gaps_of_batch(self.gaps_T, positions_BxL, inside_BxL),
        }


def _gaps_of_batch(
    gaps_T: np.ndarray | None, positions_BxL: np.ndarray, inside_BxL: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the gaps between the items of a batch, if the examples have gaps."""
    if gaps_T is None:
        return {}
    gaps_BxL = np.where(inside_BxL, np.take(gaps_T, positions_BxL, mode="clip"), np.float32(0))
    gaps_BxL[:, 0] = 0  # the event before it is not in the batch
    return {"gaps": gaps_BxL}


def windows(train: Examples) -> Windows:
    """Return windows that hold the target of each training example exactly once.

    The examples of a user follow each other in ``train``, in time order and without omissions.
    """
    user_M = train.user_M
    starts = np.flatnonzero(np.append(True, user_M[1:] != user_M[:-1]))
    counts = np.diff(starts, append=user_M.size)
    per_user = -(-counts // train.max_len)
    owner = np.repeat(np.arange(starts.size), per_user)
    # Numbered from the newest: window 0 ends at the user's last target.
    number = np.arange(owner.size) - np.repeat(np.cumsum(per_user) - per_user, per_user)
    stop = counts[owner] - number * train.max_len
    length = np.minimum(stop, train.max_len)
    first = train.target_M[starts[owner] + stop - length] - 1
    return Windows(
        train.items_T, first, length.astype(np.int32), train.max_len, gaps_T=train.gaps_T
    )
