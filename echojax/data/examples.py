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
        batch = _batch(self, target_B - lengths_B, lengths_B)
        return batch | {"targets": self.items_T[target_B]}

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
        first_B, lengths_B = self.first_M[indices], self.lengths_M[indices]
        targets_BxL = _rows(self.items_T, first_B + 1, lengths_B, self.max_len)
        return _batch(self, first_B, lengths_B) | {"targets": targets_BxL}


def _batch(
    shown: Examples | Windows, first_B: np.ndarray, lengths_B: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the items from these positions on, and the gaps between them if there are gaps."""
    batch = {
        "item_ids": _rows(shown.items_T, first_B, lengths_B, shown.max_len),
        "lengths": lengths_B.astype(np.int32),
    }
    if shown.gaps_T is not None:
        batch["gaps"] = _rows(shown.gaps_T, first_B, lengths_B, shown.max_len)
        batch["gaps"][:, 0] = 0  # the event before it is not in the batch
    return batch


def _rows(x_T: np.ndarray, first_B: np.ndarray, lengths_B: np.ndarray, length: int) -> np.ndarray:
    """Return a row of ``x_T`` from each position on, right padded with 0, (B, L)."""
    columns_L = np.arange(length)
    # Positions past the end are clipped; the mask hides what they read.
    x_BxL = np.take(x_T, first_B[:, None] + columns_L, mode="clip")
    return np.where(columns_L < lengths_B[:, None], x_BxL, 0)


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
