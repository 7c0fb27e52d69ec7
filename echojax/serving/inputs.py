"""Histories as arrays of few different shapes, so that few programs are compiled."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from echojax.errors import UserError
from echojax.models import SequenceModel


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least ``number``."""
    return 1 << max(0, number - 1).bit_length()


def check_gap_unit(model: SequenceModel, gap_unit: float | None) -> None:
    """Raise ``UserError`` if a model needs a unit of gaps and has none, or the reverse."""
    if model.time_gaps != (gap_unit is not None):
        needs = "reads times: give the" if model.time_gaps else "reads no times: leave out"
        raise UserError(f"{type(model).__name__} {needs} gap_unit of its run's items.json")


class Histories(NamedTuple):
    """The arguments of a model's ``encode``."""

    item_ids_BxL: Any
    lengths_B: Any
    gaps_BxL: Any  # ``None`` for a model that reads no gaps


def model_inputs(
    newest: Sequence[np.ndarray], gaps: Sequence[np.ndarray | None], max_len: int
) -> Histories:
    """Return histories as a batch for a model.

    The numbers of rows and of columns are powers of two (L is at most ``max_len``), so that most
    requests find their program compiled. Empty histories, and rows that only fill the batch, hold
    item 1; their results have no meaning.
    """
    rows = power_of_two(len(newest))
    item_ids_BxL = padded(newest, rows, min(max_len, power_of_two(max(map(len, newest)))))
    lengths_B = np.ones(rows, np.int32)
    lengths_B[: len(newest)] = [max(1, len(items)) for items in newest]
    item_ids_BxL[:, 0] = np.maximum(item_ids_BxL[:, 0], 1)
    known = [one for one in gaps if one is not None]
    gaps_BxL = padded(known, rows, item_ids_BxL.shape[1], np.float32) if known else None
    return Histories(item_ids_BxL, lengths_B, gaps_BxL)


def padded(
    lists: Sequence[np.ndarray], rows: int, width: int, dtype: DTypeLike = np.int32
) -> np.ndarray:
    """Return lists of numbers as an array (rows, width), with rows padded with 0."""
    array = np.zeros((rows, width), dtype)
    for row, numbers in zip(array, lists, strict=False):
        row[: len(numbers)] = numbers
    return array
