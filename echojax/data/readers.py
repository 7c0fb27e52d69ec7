"""Readers: files in the known formats to coded interactions."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from echojax.data.columnar import read_columnar
from echojax.data.formats import COLUMNAR, Columns, Layout
from echojax.data.recognise import find_layout
from echojax.data.tables import Place, Rows, read_rows
from echojax.data.text import TextFile, first_bytes, read_blocks
from echojax.data.times import Error, Times
from echojax.errors import UserError

MAX_ID_BYTES = 255
# What stands for no user or no item where programs write tables.
_MISSING = ["", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "NaN", "nan", "None", "<NA>", "\\N"]


@dataclass(frozen=True)
class Interactions:
    """Interactions as the source lists them.

    Attributes:
        users_T: int32 user codes, in order of first appearance.
        items_T: int32 item codes, in order of first appearance.
        times_T: float64, or int64 where float64 is not exact; None where the source has no time.
        user_ids: str, the user's own id by code.
        item_ids: str, the source's item id by code.
        notes: What the user should know of how the file was read, a line each.
    """

    users_T: np.ndarray
    items_T: np.ndarray
    times_T: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray
    notes: tuple[str, ...] = ()


def read_interactions(
    files: TextFile | Sequence[TextFile],
    data_format: str | None = None,
    columns: Columns | None = None,
) -> tuple[Interactions, Layout]:
    """Read whole files, one after another.

    Args:
        files: A file, or several with the same columns.
        data_format: A name in ``FORMATS``; None recognises it.
        columns: Which columns are used, and how they are read.

    Returns:
        The interactions in file order, and how the (first) file was read.

    Raises:
        UserError: A file cannot be read in this format; names file, line and value.
    """
    files = [files] if isinstance(files, TextFile) else list(files)
    columns = columns or Columns()
    users, items, times = _Codes("user id"), _Codes("item id"), Times(columns.time_format)
    layouts, places = list[Layout](), list[Place]()
    for file in files:
        layout, blocks = _opened(file, data_format, columns)
        layouts.append(layout)
        if str(layout) != str(layouts[0]):
            raise UserError(
                f"{file}: is read as {layout}, and {files[0]} as {layouts[0]}; files that are read "
                "together must have the same columns"
            )
        for rows in blocks:
            users.add(rows.users)
            items.add(rows.items)
            if rows.times is not None:
                times.add(rows.times, rows.place.error)
            places.append(rows.place)
    if not any(len(place.numbers) for place in places):
        raise UserError(f"{files[0]}: the file has no interactions")
    error = partial(_error, places)
    times_T = None if layout.time is None else times.finish(error)
    notes = _notes(layout, columns, times, times_T)
    users.finish(error)
    items.finish(error)
    missing_T = users.missing_T | items.missing_T
    if missing_T.any():
        notes.append(_missing(users, items, columns.missing, error))
    if missing_T.any() and columns.missing == "drop":
        if missing_T.all():
            raise UserError(f"{files[0]}: no interactions are left; {notes[-1]}")
        users.keep(~missing_T)
        items.keep(~missing_T)
        times_T = None if times_T is None else times_T[~missing_T]
    user_ids, item_ids = (np.array(column.ids.to_list(), np.str_) for column in (users, items))
    found = Interactions(users.codes_T, items.codes_T, times_T, user_ids, item_ids, tuple(notes))
    return found, layout


def _opened(
    file: TextFile, data_format: str | None, columns: Columns
) -> tuple[Layout, Iterator[Rows]]:
    """Return the layout of a file, and its rows, a block at a time."""
    head = b"" if file.member else first_bytes(file)
    kind = next((name for magic, name in COLUMNAR.items() if head.startswith(magic)), None)
    if kind is not None:
        if data_format not in (None, kind):
            raise UserError(f"{file}: is a file of format {kind}; drop --data-format {data_format}")
        return read_columnar(file, kind, columns)
    blocks = read_blocks(file)
    first = next(blocks)
    layout = find_layout(first, data_format, columns)
    return layout, read_rows(itertools.chain([first], blocks), layout)


def _error(places: list[Place], row: int, problem: str) -> UserError:
    """Return the error for ``problem`` in a row, counted over all places."""
    for place in places:
        if row < len(place.numbers):
            return place.error(row, problem)
        row -= len(place.numbers)
    raise IndexError(row)


def _notes(layout: Layout, columns: Columns, times: Times, times_T: np.ndarray | None) -> list[str]:
    """Return what was guessed, a line each."""
    if times_T is None and columns.time_format is not None:
        raise UserError("--time-format is given, and no time column; name it with --time-column")
    notes = []
    if layout.delimiter and not layout.has_header and columns.names is None:
        notes.append(f"no header: the columns are read as {', '.join(layout.names)}")
    order = "the order of lines"
    if times_T is not None:
        order = f"times are {layout.names[layout.time or 0]!r}"
        if described := times.described(times_T):
            notes.append(f"{order}: {described}")
    for name in layout.unused:
        notes.append(
            f"warning: column {name!r} looks like a time and is not used ({order}); choose with "
            "--time-column"
        )
    return notes


class _Codes:
    """Gives equal ids equal codes, over many blocks.

    Attributes:
        role: What the ids are of, for error messages.
        codes_T: After ``finish``: int32, in order of first appearance.
        ids: After ``finish``: the ids by code.
        missing_T: After ``finish``: which rows have no id, but a word for it.
    """

    codes_T: np.ndarray
    ids: pl.Series
    missing_T: np.ndarray

    def __init__(self, role: str):
        self.role = role
        self._vocabularies: list[pl.Series] = []
        self._codes: list[np.ndarray] = []

    def add(self, column: pl.Series) -> None:
        """Take a block's ids, text."""
        if not column.len():
            return
        distinct, codes = _coded(column)
        self._vocabularies.append(distinct)
        self._codes.append(codes)

    def finish(self, error: Error) -> None:
        """Number all ids.

        Raises:
            UserError: An id is longer than ``MAX_ID_BYTES``, or holds a tab, newline or NUL.
        """
        self.ids, merged = _coded(pl.concat(self._vocabularies))
        starts = np.cumsum([0] + [len(distinct) for distinct in self._vocabularies])
        blocks = zip(starts, self._codes, strict=False)
        self.codes_T = np.concatenate([merged[start + codes] for start, codes in blocks])
        lengths = self.ids.str.len_bytes()
        longest = int(lengths.arg_max() or 0)
        if lengths[longest] > MAX_ID_BYTES:
            problem = f"{self.role} of {lengths[longest]} bytes; at most {MAX_ID_BYTES}"
            raise error(self._first(longest), problem)
        split = self.ids.str.contains("[\\t\\n\\r\\x00]")
        if split.any():
            raise error(self._first(int(split.arg_max() or 0)), "an id holds a tab or newline")
        self.missing_T = np.isin(self.codes_T, np.flatnonzero(self.ids.is_in(_MISSING)))

    def missing_words(self) -> list[str]:
        """Return what stands in the rows that have no id."""
        return [word or "empty" for word in self.ids.to_list() if word in _MISSING]

    def keep(self, keep_T: np.ndarray) -> None:
        """Keep some of the rows."""
        distinct, codes = np.unique(self.codes_T[keep_T], return_inverse=True)
        _, first = np.unique(codes, return_index=True)
        order = np.argsort(first)
        self.codes_T = np.argsort(order).astype(np.int32)[codes]
        self.ids = self.ids.gather(distinct[order])

    def _first(self, code: int) -> int:
        return int(np.argmax(self.codes_T == code))


def _coded(column: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """Return the distinct texts in order of first appearance, and each text's index there."""
    distinct = column.unique(maintain_order=True)
    codes = column.cast(pl.Enum(distinct)).to_physical()
    return distinct, codes.to_numpy().astype(np.int32)


def _missing(users: _Codes, items: _Codes, handling: str, error: Error) -> str:
    """Return the note of rows without a user or an item.

    Raises:
        UserError: They are refused, or kept and have no id at all.
    """
    lacking = [column for column in (users, items) if column.missing_T.any()]
    found = " and ".join(
        f"{int(column.missing_T.sum()):,} of {column.codes_T.size:,} rows have no {column.role} "
        f"({', '.join(column.missing_words())})"
        for column in lacking
    )
    empty = any("empty" in column.missing_words() for column in lacking)
    if handling == "drop":
        return f"{found}: left out"
    if handling == "keep" and not empty:
        return f"{found}: kept as ids"
    first = min(lacking, key=lambda column: int(column.missing_T.argmax()))
    row = int(first.missing_T.argmax())
    word = first.ids[int(first.codes_T[row])]
    problem = f"{first.role} {word!r} means that there is none" if word else f"empty {first.role}"
    keep = "" if empty else ", or take the words as ids with --missing-ids keep"
    raise error(row, f"{problem}; {found}; leave them out with --missing-ids drop{keep}")
