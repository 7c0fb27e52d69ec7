"""Histories as arrays of a few sizes, so that a request seldom meets a size not compiled yet."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Histories ready for a model.

    Attributes:
        item_ids_BxL: the newest items, int32, right padded with 0.
        lengths_B: items in each row, int32, at least 1.
        excluded_BxS: items that must not be recommended, int32, padded with 0.
    """

    item_ids_BxL: np.ndarray
    lengths_B: np.ndarray
    excluded_BxS: np.ndarray


def power_of_two(number: int) -> int:
    """Return the least power of two that is not below ``number``."""
    return 1 << max(0, number - 1).bit_length()


def make_batch(
    histories: Sequence[np.ndarray], excluded: Sequence[np.ndarray], max_len: int
) -> Batch:
    """Return histories as a batch whose sizes are powers of two (L at most ``max_len``).

    Rows without a history, and those that fill the batch up, hold item 1: their results mean
    nothing.
    """
    rows = power_of_two(len(histories))
    newest = [items[-max_len:] for items in histories]
    item_ids = padded(newest, rows, min(max_len, power_of_two(max(map(len, newest)))))
    lengths_B = np.ones(rows, np.int32)
    lengths_B[: len(newest)] = [max(1, len(items)) for items in newest]
    item_ids[:, 0] = np.maximum(item_ids[:, 0], 1)
    width = power_of_two(max(map(len, excluded)))
    return Batch(item_ids, lengths_B, padded(excluded, rows, width))


def padded(lists: Sequence[np.ndarray], rows: int, width: int) -> np.ndarray:
    """Return lists of numbers as int32 (rows, width), each row padded with 0."""
    array = np.zeros((rows, width), np.int32)
    for row, numbers in zip(array, lists, strict=False):
        row[: len(numbers)] = numbers
    return array
