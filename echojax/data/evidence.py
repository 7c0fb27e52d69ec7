"""What first lines look like: where they are parted, which columns are times, ratings, words."""

import csv
import re
from collections.abc import Sequence

from echojax.data.formats import Fields
from echojax.data.text import words
from echojax.data.times import plausible

RATED = ("user", "item", "rating", "time")
_INTER_FIELD = re.compile(r"[^\s:]+:(token|float)(_seq)?")


def typed_delimiter(header: str) -> str | None:
    """Return what stands between the fields of a header like RecBole's; None where it is not."""
    for delimiter in "\t,;| ":
        fields = [field.strip() for field in header.split(delimiter)]
        if all(map(_INTER_FIELD.fullmatch, fields)):
            return delimiter
    return None


def split_table(lines: list[str]) -> tuple[str, Fields, bool]:
    """Return what parts lines into most fields, these, and whether all lines have as many."""
    best, delimiter, rows = (False, 1), "", [[line] for line in lines]
    for candidate in ("\t", ",", ";", "|", "::"):
        split = split_lines(lines, candidate)
        width = len(split[0])
        alike = 10 * sum(len(row) == width for row in split) >= 9 * len(split)
        if width > 1 and (alike, width) > best:
            best, delimiter, rows = (alike, width), candidate, split
    return delimiter, rows, best[0]


def split_lines(lines: list[str], delimiter: str, *, quoted: bool = True) -> Fields:
    """Return the fields of lines, without the blanks around them."""
    rows: Sequence[list[str]]
    if quoted and len(delimiter) == 1:
        try:
            rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
        except csv.Error:  # told, with its line, where the rows are read
            rows = []
    else:
        rows = [line.split(delimiter) for line in lines]
    return [[field.strip(" \t\r") for field in row] for row in rows if row] or [[""]]


def time_columns(rows: Fields) -> list[int]:
    """Return the columns that hold times, in the first row too."""
    width = len(rows[0])
    whole = [row for row in rows if len(row) == width]
    columns = range(width)
    return [i for i in columns if plausible([rows[0][i]]) and plausible([row[i] for row in whole])]


def rated(rows: Fields, times: list[int]) -> tuple[str, ...] | None:
    """Return the names of columns without a header: user, item, one time, perhaps a rating."""
    width = len(rows[0])
    if len(times) != 1 or times[0] < 2 or width > 4:
        return None
    values = [[row[i] for row in rows if len(row) == width] for i in range(width)]
    if any(re.fullmatch(r"-?\d*\.\d+", value) for ids in values[:2] for value in ids):
        return None
    names = ["user", "item", "rating", "rating"][:width]
    names[times[0]] = "time"
    ratings = [value for i in range(2, width) if i != times[0] for value in values[i]]
    return tuple(names) if all(map(_is_rating, ratings)) else None


def words_only(lines: list[str], tabs: int) -> str | None:
    """Return ``pairs`` or ``histories`` where lines of words are one of them, and not a table.

    Args:
        lines: The first lines.
        tabs: Into how many fields tabs part every line; 0 where they do not.
    """
    rows = [words_of(line) for line in lines]
    counts = [len(row) for row in rows]
    if 2 * counts.count(2) > len(counts):
        both = [row for row in rows if len(row) == 2]
        return None if tabs > 2 or time_columns(both) else "pairs"
    if tabs or max(counts) == 1 or plausible([row[-1] for row in rows]):
        return None
    if len(counts) > 1 and 10 * max(map(counts.count, counts)) >= 9 * len(counts):
        # Lines of equal length are rather a table without its header, unless no user comes twice
        # and all columns draw from one set of items.
        columns = [set(column) for column in zip(*rows, strict=False)]
        alone = any(
            not column & set().union(*columns[1:i], *columns[i + 1 :])
            for i, column in enumerate(columns)
            if i
        )
        if max(counts) < 5 or len(columns[0]) < len(rows) or alone or time_columns(rows):
            return None
    return "histories"


def words_of(line: str) -> list[str]:
    """Return the words of a line of text."""
    return [word.decode() for word in words(line.encode())]


def looks_like_header(rows: Fields) -> bool:
    """Return whether the first row has words where all others have numbers or times."""
    width = len(rows[0])
    rest = [row for row in rows[1:] if len(row) == width]
    return bool(rest) and any(
        not _is_value(rows[0][i]) and all(_is_value(row[i]) for row in rest) for i in range(width)
    )


def _is_value(text: str) -> bool:
    return _is_number(text) or plausible([text])


def _is_rating(text: str) -> bool:
    return _is_number(text) and abs(float(text)) <= 100


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
