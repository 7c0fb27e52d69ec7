"""Packing: several histories in one row, so that a batch has little padding."""

from bisect import bisect_left, insort

import numpy as np


def packed(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a batch whose rows are packed: each row holds one or more histories.

    ``batch`` is from ``Windows.gather``, with ``weights`` (B,); rows of weight 0 are left out. The
    arrays keep their shapes. There are also ``segment_ids`` int32 (B, L), the row of ``batch`` that
    an event comes from, counted from 1, and 0 for padding. ``lengths`` are the numbers of events in
    each row. Empty rows come last, with length and weight 0.
    """
    lengths_B = np.where(batch["weights"] > 0, batch["lengths"], 0)
    rows, max_len = batch["item_ids"].shape
    row_B, first_B = _places(lengths_B, max_len)
    from_row_T, column_T = np.nonzero(np.arange(max_len) < lengths_B[:, None])
    to_T = row_B[from_row_T], first_B[from_row_T] + column_T

    def moved(x_BxL: np.ndarray) -> np.ndarray:
        out_BxL = np.zeros_like(x_BxL)
        out_BxL[to_T] = x_BxL[from_row_T, column_T]
        return out_BxL

    filled_B = np.bincount(row_B, lengths_B, minlength=rows).astype(np.int32)
    ids_BxL = np.broadcast_to(np.arange(1, rows + 1, dtype=np.int32)[:, None], (rows, max_len))
    arrays = {name: moved(x) for name, x in batch.items() if x.ndim == 2}
    weights_B = (filled_B > 0).astype(np.float32)
    return arrays | {"segment_ids": moved(ids_BxL), "lengths": filled_B, "weights": weights_B}


def _places(lengths_B: np.ndarray, max_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the first column of each history, int64 (B,): best fit, longest first."""
    row_B, first_B = np.zeros((2, lengths_B.size), np.int64)
    space: list[tuple[int, int]] = []  # (places left in a row, the row), in ascending order
    for history in np.argsort(-lengths_B, kind="stable").tolist():
        length = int(lengths_B[history])
        fits = bisect_left(space, (length, 0))
        left, row = space.pop(fits) if fits < len(space) else (max_len, len(space))
        row_B[history], first_B[history] = row, max_len - left
        insort(space, (left - length, row))
    return row_B, first_B
