"""Histories as a compiled program takes them: few shapes, so that few are compiled."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from echojax.errors import UserError
from echojax.models import SequenceModel


def power_of_two(number: int) -> int:
    """Return the least power of two that is not below ``number``."""
    return 1 << max(0, number - 1).bit_length()


def check_gap_unit(model: SequenceModel, gap_unit: float | None) -> None:
    """Raise ``UserError`` where a model reads the times between events and there is no unit."""
    if model.time_gaps != (gap_unit is not None):
        needs = "reads times: give the" if model.time_gaps else "reads no times: leave out"
        raise UserError(f"{type(model).__name__} {needs} gap_unit of its run's items.json")


class Histories(NamedTuple):
    """Arguments of ``encode``."""

    item_ids_BxL: Any
    lengths_B: Any
    gaps_BxL: Any  # ``None`` where the model reads none


def model_inputs(
    newest: Sequence[np.ndarray], gaps: Sequence[np.ndarray | None], max_len: int
) -> Histories:
    """Return histories for a model.

    Their sizes are powers of two (L at most ``max_len``).
    A request so seldom meets a size not compiled yet. Rows without a history, and those that fill
    the batch up, hold item 1: their results mean nothing.
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
    """Return lists of numbers as (rows, width), each row padded with 0."""
    array = np.zeros((rows, width), dtype)
    for row, numbers in zip(array, lists, strict=False):
        row[: len(numbers)] = numbers
    return array
