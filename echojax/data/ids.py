"""Ids of users and items: text, numbered in the order in which they first appear."""

import itertools

import numpy as np
import polars as pl

from echojax.data.rows import Error, Place, check_kind, stripped

MAX_ID_BYTES = 255


def ids_in_order(column: pl.Series) -> pl.Series:
    """Return ids as an Enum, whose order is that of their first appearance."""
    text = column.cast(pl.String)
    return text.cast(pl.Enum(text.unique(maintain_order=True)))


def ids_by_number(column: pl.Series) -> pl.Series:
    """Return the ids of an Enum."""
    assert isinstance(column.dtype, pl.Enum)
    return column.dtype.categories


def as_ids(column: pl.Series, place: Place) -> pl.Series:
    """Return the ids of a block as text, without surrounding blanks; a missing id is "".

    Whole numbers that are floats only because some are missing are written without a point.
    """
    check_kind(place.file, column, is_time=False)
    if column.dtype.is_float():
        # From this limit on a float stands for several whole numbers.
        limit = 2 << np.finfo(column.head(0).to_numpy().dtype).nmant
        column = column.fill_nan(None)
        whole = column.cast(pl.Int64, strict=False)
        exact = (whole.cast(column.dtype) == column) & (column.abs() < limit)
        odd = column.is_not_null() & ~exact.fill_null(False)
        if odd.any():
            bad = int(odd.arg_max() or 0)
            problem = f"{column.name} {column[bad]} is no id; text or whole numbers wanted"
            raise place.error(bad, problem)
        column = whole
    return stripped(column).fill_null("")


class Ids:
    """Collects ids block by block; it keeps the distinct ids of each block, and their indices."""

    def __init__(self, role: str):
        self.role = role
        self._blocks: list[tuple[pl.Series, pl.Series]] = []

    def add(self, column: pl.Series, place: Place) -> None:
        """Take the ids of a block."""
        column = as_ids(column, place)
        ids = column.unique(maintain_order=True)
        self._blocks.append((ids, column.cast(pl.Enum(ids)).to_physical()))

    def joined(self, error: Error) -> pl.Series:
        """Return all ids, an Enum in order of first appearance."""
        merged = ids_in_order(pl.concat([ids for ids, _ in self._blocks]))
        starts = itertools.accumulate((ids.len() for ids, _ in self._blocks), initial=0)
        column = pl.concat(
            (
                merged.slice(start, ids.len()).gather(numbers)
                for start, (ids, numbers) in zip(starts, self._blocks, strict=False)
            ),
            rechunk=True,
        )
        ids = ids_by_number(column)
        lengths = ids.str.len_bytes()
        split = ids.str.contains("[\\t\\n\\r\\x00]")
        bad = int(lengths.arg_max() or 0)
        problem = f"{self.role} id of {lengths[bad]} bytes; at most {MAX_ID_BYTES}"
        if lengths[bad] <= MAX_ID_BYTES:
            if not split.any():
                return column
            bad, problem = int(split.arg_max() or 0), "an id holds a tab or newline"
        raise error(int((column.to_physical() == bad).arg_max() or 0), problem)
