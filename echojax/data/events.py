"""Events: rows of (user, item, time), read from files in blocks into one polars frame."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from echojax.data.ids import Ids, as_ids, doubtful, ids_by_number, ids_in_order
from echojax.data.layouts import Columns, Layout
from echojax.data.rows import MISSING, Error, Place, Rows, is_text, stripped
from echojax.data.tables import read_rows
from echojax.data.text import TextFile
from echojax.data.times import Times
from echojax.errors import UserError
from echojax.flags import MissingIds
from echojax.given import given_choice


class Events(NamedTuple):
    """Events that were read."""

    # Events in file order: ``user`` and ``item``, ids in order of first appearance (an Enum), and,
    # if the source has times, ``time``: float64, or int64 if float64 is not exact.
    frame: pl.DataFrame
    layout: Layout  # how the (first) file was read
    notes: tuple[str, ...]  # lines about what was guessed or left out


def read_events(files: Sequence[TextFile], columns: Columns = Columns()) -> Events:
    """Read files with the same columns, one after another."""
    return collect(((file, *read_rows(file, columns)) for file in files), columns)


def collect(tables: Iterable[tuple[object, Layout, Iterable[Rows]]], columns: Columns) -> Events:
    """Return the events of tables, each given by its name in errors, its layout and its rows."""
    given_choice("--missing-ids", columns.missing, MissingIds)
    layouts, places, empty = dict[object, Layout](), list[Place](), list[object]()
    users, items, times = Ids("user"), Ids("item"), Times(columns.time_format)
    for file, layout, blocks in tables:
        filled = (rows for rows in blocks if len(rows.place.numbers))
        begin = next(filled, None)
        if begin is None:  # an empty part, as of Spark, has no values by which to find its times
            empty.append(file)
            continue
        layouts[file] = layout
        first = next(iter(layouts))
        if str(layout) != str(layouts[first]):
            raise UserError(
                f"{file}: is read as {layout}, and {first} as {layouts[first]}; files that are "
                "read together must have the same columns"
            )
        if layout.has_header != layouts[first].has_header:
            headed, other = (file, first) if layout.has_header else (first, file)
            raise UserError(
                f"{other}: has no header, and {headed} has one; write it into each of the files"
            )
        for rows in itertools.chain([begin], filled):
            user, item, *time = rows.columns
            places.append(rows.place)
            users.add(user, rows.place)
            items.add(item, rows.place)
            for column in time:
                known = column if columns.missing == "keep" else _times_of_events(rows, column)
                times.add(known, rows.place)
    if not layouts:
        raise UserError(f"{empty[0]}: has no interactions")
    layout = layouts[first]

    def error(row: int, problem: str) -> UserError:
        for place in places:
            if row < len(place.numbers):
                return place.error(row, problem)
            row -= len(place.numbers)
        raise IndexError(row)

    described = None
    frame = pl.DataFrame({"user": users.joined(error), "item": items.joined(error)})
    _check_no_header(frame, layout, error)
    if len(layout.used) > 2:
        times_T, described = times.joined(error)
        frame = frame.with_columns(time=times_T)
    elif columns.time_format is not None:
        raise UserError("--time-format is given, and no time column; name it with --time-column")
    notes = _notes(layout, columns, described)
    if len(layouts) > 1 and layout.time is None:
        some = ", ".join(map(str, [*layouts][:3])) + ", ..." * (len(layouts) > 3)
        notes.append(f"no times: events are in the order of the files, which is {some}")
    for role in ("user", "item"):
        notes += doubtful(ids_by_number(frame[role]), role)
    lacking, note = _missing(frame, columns.missing, error)
    if note:
        notes.append(note)
    if note and columns.missing == "drop":
        frame = frame.filter(~lacking)
        if not frame.height:
            raise UserError(f"{first}: no interactions are left; {note}")
        frame = frame.with_columns(ids_in_order(frame[role]) for role in ("user", "item"))
    return Events(frame, layout, tuple(notes))


def _times_of_events(rows: Rows, times: pl.Series) -> pl.Series:
    """Return times in which rows that lack an id, and so are no events, may lack theirs, too.

    They have the time of another row instead; a left join of users and events has such rows.
    """
    lacks = times.is_null()
    if is_text(times):
        lacks |= stripped(times).fill_null("").is_in(MISSING)
    if not lacks.any() and not (times.dtype.is_float() and times.is_nan().any()):
        return times
    lacking_N = np.zeros(times.len(), bool)
    for ids in rows.columns[:2]:
        lacking_N |= as_ids(ids, rows.place).is_in(MISSING).to_numpy()
    events = np.flatnonzero(~lacking_N)
    if not events.size:
        return times
    return times.gather(np.where(lacking_N, events[0], np.arange(times.len())))


def _check_no_header(frame: pl.DataFrame, layout: Layout, error: Error) -> None:
    """Raise ``UserError`` if a row repeats the header, as where files were joined, or rules it off.

    Tables of databases and of Markdown have a line of dashes below the header.
    """
    if not layout.has_header:
        return
    for problem in ("repeats the header", "is a rule below the header"):
        found = pl.repeat(True, frame.height, eager=True)
        for role, column in zip(("user", "item"), layout.used, strict=False):
            ids, name = ids_by_number(frame[role]), layout.names[column]
            such = ids == name if problem.startswith("repeats") else ids.str.contains("^:?--+:?$")
            found &= frame[role].to_physical().is_in(such.arg_true().to_list())
            if not such.any():
                break
        if found.any():
            raise error(int(found.arg_max() or 0), f"{problem}; delete the line")


def _notes(layout: Layout, columns: Columns, times: str | None) -> list[str]:
    """Return lines about what was guessed."""
    notes = []
    if layout.delimiter and not layout.has_header and columns.names is None:
        notes.append(f"no header: the columns are read as {', '.join(layout.names)}")
    order = "the order of lines" if layout.time is None else f"times are {layout.time!r}"
    if times:
        notes.append(f"{order}: {times}")
    for name in layout.unused:
        notes.append(
            f"warning: column {name!r} looks like a time and is not used ({order}); choose with "
            "--time-column"
        )
    return notes


def _missing(frame: pl.DataFrame, handling: str, error: Error) -> tuple[pl.Series, str]:
    """Return which rows lack a user or an item, and a note about them."""
    lacking, found, empty = pl.repeat(False, frame.height, eager=True), list[str](), False
    first, problem = frame.height, ""
    for role in ("user", "item"):
        ids = ids_by_number(frame[role])
        words = ids.filter(ids.is_in(MISSING)).to_list()
        if not words:
            continue
        rows = frame[role].to_physical().is_in(ids.is_in(MISSING).arg_true().to_list())
        shown = ", ".join(word or "empty" for word in words)
        found.append(f"{rows.sum():,} of {frame.height:,} rows have no {role} id ({shown})")
        empty = empty or "" in words
        lacking |= rows
        row = int(rows.arg_max() or 0)
        if row < first:
            word = frame[role][row]
            means = f"{role} id {word!r} means that there is none" if word else f"empty {role} id"
            first, problem = row, means
    note = " and ".join(found)
    if not found or handling == "drop":
        return lacking, note and f"{note}: left out"
    if handling == "keep" and not empty:
        return lacking, f"{note}: kept as ids"
    keep = "" if empty else ", or take the words as ids with --missing-ids keep"
    raise error(first, f"{problem}; {note}; leave them out with --missing-ids drop{keep}")
