"""File formats, and what the columns of a file are: users, items, times."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from echojax.data.text import TextFile
from echojax.data.times import plausible
from echojax.errors import UserError

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
    "parquet": "Parquet file",
    "arrow": "Arrow file (Feather)",
}
COLUMNAR = {b"PAR1": "parquet", b"ARROW1": "arrow"}  # by their first bytes

# Column names by meaning, best first; compared in lower case, letters and digits only.
GUESSES = {
    "user": ("userid", "user", "uid", "reviewerid", "customerid", "visitorid", "memberid"),
    "item": (
        *("itemid", "item", "iid", "movieid", "parentasin", "asin", "productid", "sku"),
        *("trackid", "songid", "artistid", "bookid", "videoid", "articleid", "businessid"),
    ),
    "time": ("timestamp", "time", "ts", "unixtimestamp", "unixtime", "unixreviewtime"),
}
# Names that mean a time where their values are times.
_TIMES = (
    *("datetime", "eventtime", "createdat", "date", "eventdate", "tdat", "when", "utc", "created"),
    *("eventtimestamp", "timestampms", "timestamps", "dateadded", "addedat", "reviewtime"),
)
_LIKE_TIME = re.compile(r"time|date|stamp|(^|[^a-z])(at|when|dat|ts)$")
UNNAMED = ("ratings.dat", "u.data", "ratings.csv", "pairs", "histories")

Fields = list[list[str]]


@dataclass(frozen=True)
class Columns:
    """How the columns of a file are to be read; None means the format's own, or a sensible guess.

    Attributes:
        user: Name of the user's column.
        item: Name of the item's column.
        time: Name of the time's column.
        names: Names of all columns between commas, of a file that has no header.
        time_format: How dates are written, as strftime has it; None for ISO 8601.
        missing: What is done with rows whose user or item is empty, NA, NULL or the like.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    names: str | None = None
    time_format: str | None = None
    missing: Literal["refuse", "drop", "keep"] = "refuse"


@dataclass(frozen=True)
class Layout:
    """How to read a file.

    Attributes:
        data_format: A name in ``FORMATS``.
        delimiter: What stands between fields; "" where any white space does, or there is no text.
        names: Names of all fields (for JSON, of the first object's).
        user: Index of the user's field.
        item: Index of the item's field.
        time: Index of the time's field; None means file order.
        has_header: The first line is a header.
        unused: Names of other columns that look like times.
    """

    data_format: str
    delimiter: str = ""
    names: tuple[str, ...] = ()
    user: int = 0
    item: int = 1
    time: int | None = None
    has_header: bool = False
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.data_format in UNNAMED:
            return self.data_format
        time = "file order" if self.time is None else self.names[self.time]
        used = f"user {self.names[self.user]}, item {self.names[self.item]}, time {time}"
        return f"{self.data_format} ({used})"

    @property
    def used(self) -> list[int]:
        """Indices of the user's, the item's and, where there is one, the time's field."""
        return [i for i in (self.user, self.item, self.time) if i is not None]

    @property
    def quoted(self) -> bool:
        """Whether fields may stand in quotes."""
        return self.data_format in ("csv", "tsv", "ratings.csv") and len(self.delimiter) == 1


def with_roles(file: TextFile, layout: Layout, rows: Fields, columns: Columns) -> Layout:
    """Return a layout with the user's, item's and time's column, by name and first rows.

    Raises:
        UserError: There is no such column, or two of that name.
    """
    user = _column(file, layout.names, columns.user, "user")
    item = _column(file, layout.names, columns.item, "item")
    time = _column(file, layout.names, columns.time, "time")
    if user is None or item is None:
        missing = "user" if user is None else "item"
        raise UserError(
            f"{file}: no {missing} column among {', '.join(layout.names)}; name it with "
            f"--{missing}-column, or the format with --data-format"
        )

    def is_time(index: int) -> bool:
        values = [row[index] for row in rows if index < len(row)]
        return bool(values) and plausible(values)

    plain = [_plain(name) for name in layout.names]
    if time is None:
        guesses = (plain.index(name) for name in _TIMES if name in plain)
        told = columns.time_format is not None
        time = next((i for i in guesses if i not in (user, item) and (told or is_time(i))), None)
    others = [i for i in range(len(plain)) if i not in (user, item, time) and plain[i]]
    unused = [i for i in others if _LIKE_TIME.search(layout.names[i].lower()) or is_time(i)]
    found = replace(layout, user=user, item=item, time=time)
    for index in found.used:
        if layout.names.count(layout.names[index]) > 1:
            raise UserError(
                f"{file}: two columns are named {layout.names[index]!r}; rename one of them"
            )
    return replace(found, unused=tuple(layout.names[i] for i in unused))


def is_header(fields: list[str], columns: Columns) -> bool:
    """Return whether fields name a user's or item's column, or one that is asked for."""
    named = {columns.user, columns.item, columns.time} - {None}
    plain = [_plain(field) for field in fields]
    guessed = [any(field in plain for field in GUESSES[role]) for role in ("user", "item")]
    return bool(named & set(fields)) or any(guessed)


def _column(file: TextFile, names: tuple[str, ...], wanted: str | None, role: str) -> int | None:
    if wanted is not None:
        if wanted not in names:
            raise UserError(
                f"{file}: no column {wanted!r} for --{role}-column; the file has {', '.join(names)}"
            )
        return names.index(wanted)
    plain = [_plain(name) for name in names]
    return next((plain.index(guess) for guess in GUESSES[role] if guess in plain), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
