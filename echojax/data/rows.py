"""Blocks of rows of a table: their places in the file, and which values they may have."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from echojax.errors import UserError

# Words that programs write into tables for a missing value.
MISSING = (
    *("", "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "NULL", "null", "(null)", "\\N"),
    *("NaN", "nan", "-NaN", "-nan", "1.#QNAN", "-1.#IND", "NaT", "None", "undefined"),
    *("#REF!", "#VALUE!", "#NAME?", "(not set)", "(none)", "-"),
    "00000000-0000-0000-0000-000000000000",
)
_TEXT = (pl.String, pl.Categorical, pl.Enum)
Error = Callable[[int, str], UserError]


class Place(NamedTuple):
    """The places of rows in a file: the numbers of their lines or, in columnar files, rows."""

    file: object  # its name in error messages
    numbers: Sequence[int] | np.ndarray  # from 1
    unit: str = "line"

    def error(self, row: int, problem: str) -> UserError:
        """Return the error for ``problem`` in a row, with file and line."""
        return UserError(f"{self.file}, {self.unit} {self.numbers[row]}: {problem}")


class Rows(NamedTuple):
    """A block of rows: the columns in use, as text if the file is text."""

    place: Place
    columns: Sequence[pl.Series]


def check_kind(file: object, column: pl.Series, *, is_time: bool) -> None:
    """Raise ``UserError`` if the type of a column is not one that ids, or times, can have."""
    if not is_plain(column.dtype) or (column.dtype.is_temporal() and not is_time):
        raise UserError(
            f"{file}: column {column.name!r} holds {column.dtype}; text or numbers wanted"
        )


def is_plain(kind: pl.DataType) -> bool:
    """Return whether values of a type are text, numbers, dates or times."""
    return kind in (*_TEXT, pl.Date, pl.Datetime) or kind.is_numeric()


def text_column(values: Sequence[str | None]) -> pl.Series:
    """Return strings as a column of text."""
    try:
        return pl.Series(values, dtype=pl.String)
    except UnicodeEncodeError:  # halves of surrogate pairs, which JSON can contain
        whole = [text and text.encode("utf-8", "replace").decode() for text in values]
        return pl.Series(whole, dtype=pl.String)


def decimal_text(column: pl.Series) -> pl.Series:
    """Return decimals as text, whole numbers without a point."""
    return column.cast(pl.String).str.replace(r"\.0*$", "")


def is_text(column: pl.Series) -> bool:
    """Return whether values are text, also as categories."""
    return column.dtype in _TEXT


def stripped(column: pl.Series) -> pl.Series:
    """Return values as text, without the blanks around them."""
    return column.cast(pl.String).str.strip_chars(" \t\r")
