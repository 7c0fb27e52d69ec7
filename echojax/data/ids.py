"""Ids of users and items: text, numbered in the order in which they first appear."""

import itertools
import unicodedata

import numpy as np
import polars as pl

from echojax.data.rows import Error, Place, check_kind, decimal_text, stripped

MAX_ID_BYTES = 255
_COMPARED = 100_000  # most ids that are compared with all others


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
        shown = column.fill_nan(None)
        column = shown.cast(pl.Int64, strict=False)
        exact = (column.cast(shown.dtype) == shown) & (shown.abs() < limit)
        odd = shown.is_not_null() & ~exact.fill_null(False)
    elif column.dtype.is_decimal():
        shown = column = decimal_text(column)
        odd = column.str.contains(".", literal=True).fill_null(False)
    else:
        return stripped(column).fill_null("")
    if odd.any():
        bad = int(odd.arg_max() or 0)
        problem = f"{column.name} {shown[bad]} is no id; text or whole numbers wanted"
        raise place.error(bad, problem)
    return stripped(column).fill_null("")


def doubtful(ids: pl.Series, role: str) -> list[str]:
    """Return warnings about distinct ids that look alike, and about ids that were numbers.

    Alike are ``7``, ``07`` and ``7.0``, and text that differs in its Unicode form only.
    """
    notes = []
    odd = ids.filter(ids.str.contains(r"[^\x00-\x7f]|^0+\d+$|^\d+\.0$")).head(_COMPARED)
    plain = pl.Series([_appearance(text) for text in odd.to_list()], dtype=pl.String)
    known = plain.cast(pl.Enum(ids), strict=False).is_not_null()
    same = (plain != odd) & (known | plain.is_duplicated())
    if same.any():
        row = int(same.arg_max() or 0)
        others = odd.filter((plain == plain[row]) & (odd != odd[row]))
        other = others[0] if len(others) else plain[row]
        notes.append(
            f"warning: {same.sum():,} {role} ids look like others, such as {odd[row]!a} and "
            f"{other!a}, and are other {role}s; write them alike if they are the same"
        )
    quoted = ids.filter(ids.str.contains(r"""^(b?'.*'|b?".*"|=".*")$"""))
    if len(quoted):
        notes.append(
            f"warning: {len(quoted):,} {role} ids, such as {quoted[0]!a}, have quotes of another "
            "program in them; export them without, or name items so everywhere"
        )
    rounded = ids.filter(ids.str.contains(r"^\d(\.\d+)?[eE]\+\d+$"))
    if len(rounded):
        notes.append(
            f"warning: {len(rounded):,} {role} ids, such as {rounded[0]!r}, are numbers that a "
            "program has rounded, so that several may have become one; export ids as text"
        )
    return notes


def _appearance(text: str) -> str:
    """Return what an id looks like: without invisible characters, leading zeros and ``.0``."""
    if text.isascii():
        return text.removesuffix(".0").lstrip("0") or "0"
    shown = unicodedata.normalize("NFKC", text)
    return "".join(char for char in shown if unicodedata.category(char) != "Cf").strip()


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
