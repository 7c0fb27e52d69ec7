"""The layout of a file: its format, and which columns have the users, items and times."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from echojax.data.times import dated, plausible
from echojax.errors import UserError
from echojax.flags import MissingIds

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
COLUMNAR = {b"PAR1": "parquet", b"ARROW1": "arrow"}  # by the first bytes of a file
RATED = {"ratings.dat": "::", "u.data": "\t", "ratings.csv": ","}  # with their delimiters
UNNAMED = (*RATED, "pairs", "histories")

# Usual column names by role, in order of preference; only letters and digits are compared, in
# lower case.
_GUESSES = {
    "user": ("userid", "user", "uid", "reviewerid", "customerid", "visitorid", "memberid"),
    "item": (
        *("itemid", "item", "iid", "movieid", "parentasin", "asin", "productid", "sku"),
        *("trackid", "songid", "artistid", "bookid", "videoid", "articleid", "businessid"),
    ),
    "time": ("timestamp", "time", "ts", "unixtimestamp", "unixtime", "unixreviewtime"),
}
# Names of columns that are times only if their values are times; dates, which may lack the time of
# day, come last.
_TIMES = (
    *("datetime", "eventtime", "createdat", "eventtimestamp", "timestampms", "timems"),
    *("timestamps", "when", "utc", "created"),
    *("date", "eventdate", "tdat", "dateadded", "addedat", "reviewtime"),
)
_TITLES = ("movietitle", "title", "itemname", "name", "itemtitle", "productname")
_LIKE_TIME = re.compile(r"time|date|stamp|(^|[^a-z])(at|when|dat|dt|ts|year|month|day|hour)$")

# Lists as the value of an item: in brackets, or numbers that are no single one such as 1,234,567.
_LIST = re.compile(r"[\[{(].*[,\s].*[\]})]|(?!\d{1,3}(,\d{3})+$)\d+([,\s]\s*\d+)+")

Fields = list[list[str]]


@dataclass(frozen=True)
class Columns:
    """How to read a file; ``None`` is what the format defines, or a guess by names and values."""

    user: str | None = None  # the name of the column of users, and so on
    item: str | None = None
    time: str | None = None
    names: str | None = None  # of all columns, between commas, of a file without a header
    time_format: str | None = None  # the format of dates, as for strftime; ``None`` is ISO 8601
    missing: MissingIds = "refuse"  # what to do with rows that have no user or no item
    data_format: str | None = None  # a name in ``FORMATS``

    @classmethod
    def of(cls, flags: Any) -> "Columns":
        """Return the columns that the flags of a command, or a configuration, describe."""
        return cls(
            flags.user_column,
            flags.item_column,
            flags.time_column,
            flags.columns,
            flags.time_format,
            flags.missing_ids,
            flags.data_format,
        )


@dataclass(frozen=True)
class Layout:
    """How to read a file."""

    data_format: str  # a name in ``FORMATS``
    delimiter: str = ""  # "" if fields are separated by white space, or the file is not text
    names: tuple[str, ...] = ()  # of all fields (for JSON, of the first objects)
    used: tuple[int, ...] = (0, 1)  # the fields of user, item and, if there are times, time
    has_header: bool = False
    unused: tuple[str, ...] = ()  # names of other columns that look like times

    def __str__(self) -> str:
        if self.data_format in UNNAMED:
            return self.data_format
        user, item = (self.names[i] for i in self.used[:2])
        return f"{self.data_format} (user {user}, item {item}, time {self.time or 'file order'})"

    @property
    def time(self) -> str | None:
        """The name of the column of times; ``None`` if the order of the rows counts."""
        return self.names[self.used[2]] if len(self.used) > 2 else None


def columnar_format(head: bytes) -> str | None:
    """Return "parquet" or "arrow" for the first bytes of such a file, ``None`` for others."""
    return next((name for magic, name in COLUMNAR.items() if head.startswith(magic)), None)


def with_roles(file: object, layout: Layout, rows: Fields, columns: Columns) -> Layout:
    """Return a layout with the columns of users, items and times, found by name and first rows.

    ``file`` is the name of the file in error messages.
    """
    if layout.data_format in UNNAMED:
        if (columns.user, columns.item, columns.time) != (None, None, None):
            raise UserError(
                f"{file}: {layout.data_format} has no column names; drop the flags that name "
                "columns, or choose another --data-format"
            )
        return layout
    if not layout.names:
        raise UserError(f"{file}: has no columns; users and items are needed")
    user, item, time = (_column(file, layout.names, columns, role) for role in _GUESSES)
    if user is None or item is None:
        missing = "user" if user is None else "item"
        raise UserError(
            f"{file}: no {missing} column among {', '.join(layout.names)}; name it with "
            f"--{missing}-column" + ", or the format with --data-format" * bool(layout.delimiter)
        )

    listed = [row[item] for row in rows if item < len(row) and _LIST.fullmatch(row[item])]
    if 2 * len(listed) > len(rows):
        raise UserError(
            f"{file}: column {layout.names[item]!r} holds lists such as {listed[0]:.40}; write a "
            "row for each event"
        )

    def is_time(index: int, *others: Callable[[list[str]], bool]) -> bool:
        values = [row[index] for row in rows if index < len(row)]
        return bool(values) and any(test(values) for test in (plausible, *others))

    plain = [_plain(name) for name in layout.names]
    guessed = columns.time is None and columns.time_format is None
    if guessed and time is not None and not is_time(time):
        better = [i for i in range(len(plain)) if i not in (user, item, time) and is_time(i)]
        if better:
            names = " and ".join(repr(layout.names[i]) for i in (time, *better))
            raise UserError(
                f"{file}: columns {names} may be the time, and the first looks like none; choose "
                "with --time-column"
            )
    if time is None:
        guesses = (plain.index(name) for name in _TIMES if name in plain)
        told = columns.time_format is not None
        time = next((i for i in guesses if i not in (user, item) and (told or is_time(i))), None)
    others = [i for i, name in enumerate(layout.names) if name.strip("_") or not name]
    unused = [
        i
        for i in others
        if i not in (user, item, time)
        and (_LIKE_TIME.search(layout.names[i].lower()) or is_time(i, dated))
    ]
    used = (user, item) if time is None else (user, item, time)
    return _with_used(file, replace(layout, unused=tuple(layout.names[i] for i in unused)), used)


class MissingColumnError(UserError):
    """A file of items has no titles."""


def with_titles(
    file: object, layout: Layout, rows: Fields, columns: Columns, titles: Sequence[str] = ()
) -> Layout:
    """Return a layout with the column of items and those of their titles.

    ``titles`` names the latter; by default they are a title and, if there is one, a year. ``file``
    is the name of the file in error messages.
    """
    names = layout.names
    item = item_column(names, columns.item)
    if item is None and layout.data_format == "inter":
        item = 0  # by RecBole's convention
    if titles:
        used = [known_column(file, names, title, "--title-column") for title in titles]
    else:
        guesses = (_guessed(names, _TITLES), _guessed(names, ("releaseyear", "year")))
        used = [index for index in guesses if index is not None]
    if item is None or not used or (not titles and guesses[0] is None):
        missing, advice = "title", "name it with --title-column"
        if item is None:  # --item-column names that of the data
            missing, advice = "item", "the first line must name it as the data does, or item_id"
        raise MissingColumnError(f"{file}: no {missing} column among {', '.join(names)}; {advice}")
    return _with_used(file, layout, (item, *used))


def item_column(names: Sequence[str], wanted: str | None) -> int | None:
    """Return the index of the column of item ids: the one named ``wanted``, or a usual name."""
    if wanted in names:
        return names.index(wanted)
    return _guessed(names, (*_GUESSES["item"], "id"))


def _with_used(file: object, layout: Layout, used: tuple[int, ...]) -> Layout:
    for index in used:
        name = layout.names[index]
        if layout.names.count(name) > 1:
            raise UserError(f"{file}: two columns are named {name!r}; rename one of them")
        if used.count(index) > 1:
            raise UserError(f"{file}: column {name!r} is named for two purposes; name another")
    return replace(layout, used=used)


def _column(file: object, names: tuple[str, ...], columns: Columns, role: str) -> int | None:
    wanted = getattr(columns, role)
    if wanted is None:
        found = _guessed(names, _GUESSES[role])
        alike = [] if found is None else [n for n in names if _plain(n) == _plain(names[found])]
        if len(set(alike)) > 1:
            raise UserError(
                f"{file}: columns {' and '.join(map(repr, alike))} have names alike; choose one "
                f"with --{role}-column"
            )
        return found
    return known_column(file, names, wanted, f"--{role}-column")


def _guessed(names: Sequence[str], guesses: Sequence[str]) -> int | None:
    plain = [_plain(name) for name in names]
    return next((plain.index(guess) for guess in guesses if guess in plain), None)


def known_column(file: object, names: Sequence[str], wanted: str, flag: str) -> int:
    """Return the index of the column with a name."""
    if wanted in names:
        return names.index(wanted)
    near = get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"{file}: no column {wanted!r} for {flag}; {hint}the columns are {', '.join(names)}"
    )


def is_header(fields: Sequence[str], columns: Columns) -> bool:
    """Return whether fields contain usual names of columns, or one that the user named."""
    named = {columns.user, columns.item, columns.time} - {None}
    plain = {_plain(field) for field in fields}
    return bool(named & set(fields) or plain & {*_GUESSES["user"], *_GUESSES["item"]})


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
