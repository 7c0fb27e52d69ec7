"""File formats: what they look like, and which one a file is in."""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import PurePath

from echojax.data.text import Block, TextFile, line_error
from echojax.errors import UserError, unknown_name

FORMATS = {
    "inter": "RecBole atomic file: tabs, header of name:type",
    "csv": "header, then fields between commas (or ; or |), quoted or not",
    "tsv": "header, then fields between tabs",
    "jsonl": "one JSON object a line, such as Amazon reviews",
    "ratings.dat": "MovieLens: user::item::rating::time",
    "u.data": "MovieLens: user, item, rating, time between tabs, no header",
    "ratings.csv": "Amazon: user,item,rating,time without a header",
    "pairs": "user item, in time order",
    "histories": "user item item ..., one history a line, in time order",
}

# Column names by meaning, best first; compared in lower case, letters and digits only.
_GUESSES = {
    "user": ("userid", "user", "uid", "reviewerid", "customerid", "visitorid", "memberid"),
    "item": (
        *("itemid", "item", "iid", "movieid", "parentasin", "asin", "productid", "sku"),
        *("trackid", "songid", "artistid", "bookid", "videoid", "articleid", "businessid"),
    ),
    "time": ("timestamp", "time", "ts", "unixtimestamp", "unixtime", "unixreviewtime"),
}
_NO_HEADER = {"ratings.dat": "::", "u.data": "\t", "ratings.csv": ","}
_UNNAMED = (*_NO_HEADER, "pairs", "histories")
_INTER_FIELD = re.compile(r"[^\s:]+:(token|float)(_seq)?")
_SAMPLE_LINES = 50


@dataclass(frozen=True)
class Columns:
    """Names of the columns to use; None means the format's own, or a sensible guess."""

    user: str | None = None
    item: str | None = None
    time: str | None = None


@dataclass(frozen=True)
class Layout:
    """How to read a file.

    Attributes:
        data_format: A name in ``FORMATS``.
        delimiter: What stands between fields; "" where any white space does, or JSON.
        names: Names of all fields (for JSON, of the first object's).
        user: Index of the user's field.
        item: Index of the item's field.
        time: Index of the time's field; None means file order.
        has_header: The first line is a header.
    """

    data_format: str
    delimiter: str = ""
    names: tuple[str, ...] = ()
    user: int = 0
    item: int = 1
    time: int | None = None
    has_header: bool = False

    def __str__(self) -> str:
        if self.data_format in _UNNAMED:
            return self.data_format
        time = "file order" if self.time is None else self.names[self.time]
        used = f"user {self.names[self.user]}, item {self.names[self.item]}, time {time}"
        return f"{self.data_format} ({used})"


def find_layout(first: Block, data_format: str | None, columns: Columns) -> Layout:
    """Return the layout of the file that begins with the block ``first``.

    Args:
        first: The file's first lines.
        data_format: A name in ``FORMATS``, or None to recognise it by name and first lines.
        columns: Names asked for, in formats with names.

    Raises:
        UserError: The format is unknown or not recognised, or a column is missing.
    """
    text = first.data[: 1 << 20].decode("utf-8", "ignore")
    lines = [line for line in text.split("\n")[:_SAMPLE_LINES] if line]
    if not lines:
        raise UserError(f"{first.file}: the file has no interactions")
    chosen = data_format or recognise(first.file, lines, columns)
    if chosen not in FORMATS:
        raise unknown_name("--data-format", chosen, list(FORMATS))
    if chosen in _UNNAMED and columns != Columns():
        raise UserError(
            f"{first.file}: {chosen} has no column names; drop the --...-column flags, or choose "
            "another --data-format"
        )
    if chosen in ("pairs", "histories"):
        return Layout(chosen)
    if chosen in _NO_HEADER:
        fields = ("user", "item", "rating", "time")
        return Layout(chosen, _NO_HEADER[chosen], fields, user=0, item=1, time=3)
    names, delimiter = _names(first.file, chosen, lines[0])
    user = _column(first.file, names, columns.user, "user")
    item = _column(first.file, names, columns.item, "item")
    time = _column(first.file, names, columns.time, "time")
    if user is None or item is None:
        missing = "user" if user is None else "item"
        raise UserError(
            f"{first.file}: no {missing} column among {', '.join(names)}; name it with "
            f"--{missing}-column, or the format with --data-format"
        )
    return Layout(chosen, delimiter, names, user, item, time, has_header=chosen != "jsonl")


def recognise(file: TextFile, lines: list[str], columns: Columns) -> str:
    """Return the format of a file by its name and first lines.

    Raises:
        UserError: It could be none of them, or more than one.
    """
    first = lines[0]
    suffix = PurePath(file.name).suffix
    if suffix == ".inter" or all(map(_INTER_FIELD.fullmatch, first.split("\t"))):
        return "inter"
    if first.startswith("{"):
        return "jsonl"
    if file.name == "u.data":
        return "u.data"
    if first.count("::") == 3:
        return "ratings.dat"
    delimiter = _likeliest_delimiter(first)
    fields = first.split(delimiter) if delimiter else []
    if _is_header(fields, columns):
        return "tsv" if delimiter == "\t" else "csv"
    if len(fields) == 4 and all(map(_is_number, fields[2:])):
        return "u.data" if delimiter == "\t" else "ratings.csv"
    if suffix in (".csv", ".tsv"):
        return suffix[1:]
    counts = [len(line.split()) for line in lines]
    if delimiter in (None, "\t") and not _is_header(first.split(), columns):
        # Short lines of equal length could be a table without its header: not guessed.
        if 2 * counts.count(2) > len(counts):
            return "pairs"
        if len(counts) == 1 < max(counts) or len(set(counts)) > 1 or max(counts) > 4:
            return "histories"
    raise UserError(
        f"{file}: format not recognised from {first[:60]!r}; choose --data-format "
        f"{', '.join(FORMATS)}"
    )


def _likeliest_delimiter(line: str) -> str | None:
    return next((delimiter for delimiter in "\t,;|" if delimiter in line), None)


def _is_header(fields: list[str], columns: Columns) -> bool:
    named = {columns.user, columns.item, columns.time} - {None}
    plain = [_plain(field) for field in fields]
    guessed = [any(field in plain for field in _GUESSES[role]) for role in ("user", "item")]
    return bool(named & {_unquoted(field) for field in fields}) or any(guessed)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unquoted(field: str) -> str:
    return field.strip().strip('"')


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _names(file: TextFile, data_format: str, header: str) -> tuple[tuple[str, ...], str]:
    """Return the names of a file's fields, and its delimiter."""
    if data_format == "jsonl":
        try:
            record = json.loads(header)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise line_error(file, 1, "is not a JSON object")
        return tuple(record), ""
    if data_format == "inter":
        return tuple(name.split(":")[0].strip() for name in header.split("\t")), "\t"
    delimiter = "\t" if data_format == "tsv" else _likeliest_delimiter(header) or ","
    if data_format == "csv":
        try:
            fields = next(csv.reader([header], delimiter=delimiter))
        except csv.Error as error:
            raise line_error(file, 1, f"broken CSV ({error})") from None
        return tuple(name.strip() for name in fields), delimiter
    return tuple(_unquoted(name) for name in header.split(delimiter)), delimiter


def _column(file: TextFile, names: tuple[str, ...], wanted: str | None, role: str) -> int | None:
    if wanted is not None:
        if wanted not in names:
            raise UserError(
                f"{file}: no column {wanted!r} for --{role}-column; the file has {', '.join(names)}"
            )
        return names.index(wanted)
    plain = [_plain(name) for name in names]
    return next((plain.index(guess) for guess in _GUESSES[role] if guess in plain), None)
