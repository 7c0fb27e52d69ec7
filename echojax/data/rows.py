"""Rows of a table, a block at a time: where they stand, and which values they may have."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from echojax.errors import UserError

Error = Callable[[int, str], UserError]


class Place(NamedTuple):
    """Where rows stand: the numbers of their lines or, in columnar files, rows, from 1."""

    file: object  # as errors name it
    numbers: Sequence[int] | np.ndarray
    unit: str = "line"

    def error(self, row: int, problem: str) -> UserError:
        """Return the error for ``problem`` in a row, naming file and line."""
        return UserError(f"{self.file}, {self.unit} {self.numbers[row]}: {problem}")


class Rows(NamedTuple):
    """A block of rows: the columns in use as they are; what text has is text."""

    place: Place
    columns: Sequence[pl.Series]


def check_kind(file: object, column: pl.Series, *, is_time: bool) -> None:
    """Raise ``UserError`` unless a column's type is one of ids, or of times."""
    if not is_plain(column.dtype) or (column.dtype.is_temporal() and not is_time):
        raise UserError(
            f"{file}: column {column.name!r} holds {column.dtype}; text or numbers wanted"
        )


def is_plain(kind: pl.DataType) -> bool:
    """Return whether values are text or numbers, or times that look like them as text."""
    named = kind in (pl.String, pl.Categorical, pl.Enum, pl.Date, pl.Datetime)
    return named or kind.is_integer() or kind.is_float()


def text_column(values: Sequence[str | None]) -> pl.Series:
    """Return text as a column."""
    try:
        return pl.Series(values, dtype=pl.String)
    except UnicodeEncodeError:  # halves of surrogate pairs, which JSON can write
        whole = [text and text.encode("utf-8", "replace").decode() for text in values]
        return pl.Series(whole, dtype=pl.String)


def is_text(column: pl.Series) -> bool:
    """Return whether values are text, categories or not."""
    return column.dtype in (pl.String, pl.Categorical, pl.Enum)


def stripped(column: pl.Series) -> pl.Series:
    """Return values as text, without the blanks around them."""
    return column.cast(pl.String).str.strip_chars(" \t\r")
