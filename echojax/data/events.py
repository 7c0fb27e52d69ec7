"""Files to events: rows of (user, item, time), read a block at a time into one polars frame."""

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from echojax.data.dataset import ids_by_number, ids_in_order
from echojax.data.layouts import Columns, Layout
from echojax.data.tables import Rows, read_rows
from echojax.data.text import TextFile
from echojax.data.times import Error, read_times
from echojax.errors import UserError

MAX_ID_BYTES = 255
# What stands for no user or no item where programs write tables.
_MISSING = ["", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "NaN", "nan", "None", "<NA>", "\\N"]


class Events(NamedTuple):
    """What was read.

    Attributes:
        frame: Events in file order: ``user`` and ``item``, ids in order of first appearance (an
            Enum), and, unless the source has none, ``time``, float64, or int64 where float64 is
            not exact.
        layout: How the (first) file was read.
        notes: What the user should know of that, a line each.
    """

    frame: pl.DataFrame
    layout: Layout
    notes: tuple[str, ...]


def read_events(files: Sequence[TextFile], columns: Columns = Columns()) -> Events:  # noqa: B008
    """Read whole files with the same columns, one after another.

    Raises:
        UserError: A file cannot be read in its format; names file, line and value.
    """
    layouts, blocks = list[Layout](), list[Rows]()
    for file in files:
        layout, rows = read_rows(file, columns)
        layouts.append(layout)
        if str(layout) != str(layouts[0]):
            raise UserError(
                f"{file}: is read as {layout}, and {files[0]} as {layouts[0]}; files that are read "
                "together must have the same columns"
            )
        # Equal ids are kept once a block, so that 25 million rows fit into memory.
        blocks += (
            block._replace(user=ids_in_order(block.user), item=ids_in_order(block.item))
            for block in rows
            if len(block.numbers)
        )
    if not blocks:
        raise UserError(f"{files[0]}: the file has no interactions")

    def error(row: int, problem: str) -> UserError:
        for block in blocks:
            if row < len(block.numbers):
                return block.error(row, problem)
            row -= len(block.numbers)
        raise IndexError(row)

    times_T, described = None, None
    times = [block.time for block in blocks if block.time is not None]
    if times:
        times_T, described = read_times(times, columns.time_format, error)
    elif columns.time_format is not None:
        raise UserError("--time-format is given, and no time column; name it with --time-column")
    notes = _notes(layout, columns, described)
    frame = pl.DataFrame(
        {
            "user": _joined([block.user for block in blocks], "user", error),
            "item": _joined([block.item for block in blocks], "item", error),
            **({} if times_T is None else {"time": times_T}),
        }
    )
    lacking, note = _missing(frame, columns.missing, error)
    if note:
        notes.append(note)
    if note and columns.missing == "drop":
        frame = frame.filter(~lacking)
        if not frame.height:
            raise UserError(f"{files[0]}: no interactions are left; {note}")
        frame = frame.with_columns(ids_in_order(frame[role]) for role in ("user", "item"))
    return Events(frame, layout, tuple(notes))


def _notes(layout: Layout, columns: Columns, times: str | None) -> list[str]:
    """Return what was guessed, a line each."""
    notes = []
    if layout.delimiter and not layout.has_header and columns.names is None:
        notes.append(f"no header: the columns are read as {', '.join(layout.names)}")
    order = "the order of lines"
    if layout.time is not None:
        order = f"times are {layout.names[layout.time]!r}"
    if times:
        notes.append(f"{order}: {times}")
    for name in layout.unused:
        notes.append(
            f"warning: column {name!r} looks like a time and is not used ({order}); choose with "
            "--time-column"
        )
    return notes


def _joined(blocks: list[pl.Series], role: str, error: Error) -> pl.Series:
    """Return the ids of all blocks, in order of first appearance.

    Raises:
        UserError: An id is longer than ``MAX_ID_BYTES``, or holds a tab, newline or NUL.
    """
    ids = pl.concat([ids_by_number(block) for block in blocks]).unique(maintain_order=True)
    kind = pl.Enum(ids)
    column = pl.concat([block.cast(pl.String).cast(kind) for block in blocks])
    lengths = ids.str.len_bytes()
    split = ids.str.contains("[\\t\\n\\r\\x00]")
    if lengths.max() > MAX_ID_BYTES:  # type: ignore[operator]
        bad = int(lengths.arg_max() or 0)
        problem = f"{role} id of {lengths[bad]} bytes; at most {MAX_ID_BYTES}"
    elif split.any():
        bad, problem = int(split.arg_max() or 0), "an id holds a tab or newline"
    else:
        return column
    raise error(int((column.to_physical() == bad).arg_max() or 0), problem)


def _missing(frame: pl.DataFrame, handling: str, error: Error) -> tuple[pl.Series, str]:
    """Return which rows have no user or no item, but a word for it, and the note of them.

    Raises:
        UserError: They are refused, or kept and have no id at all.
    """
    lacking, found, empty = pl.repeat(False, frame.height, eager=True), list[str](), False
    first, problem = frame.height, ""
    for role in ("user", "item"):
        ids = ids_by_number(frame[role])
        words = ids.filter(ids.is_in(_MISSING)).to_list()
        if not words:
            continue
        rows = frame[role].to_physical().is_in(ids.is_in(_MISSING).arg_true().to_list())
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
