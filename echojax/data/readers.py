"""Readers: text in one of the known formats to coded interactions."""

import csv
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from echojax.data.formats import Columns, Layout, find_layout
from echojax.data.text import Block, TextFile, line_error, read_blocks
from echojax.data.tokens import IdCodes, Spans, parse_numbers
from echojax.errors import UserError

_ROWS_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class Interactions:
    """Interactions as the source lists them.

    Attributes:
        users_T: int32 user codes, in order of first appearance.
        items_T: int32 item codes, in order of first appearance.
        times_T: float64, or None where the source has no time.
        user_ids: str, the user's own id by code.
        item_ids: str, the source's item id by code.
    """

    users_T: np.ndarray
    items_T: np.ndarray
    times_T: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray


# A block with the byte spans of its users, items and (where there are any) times.
Rows = tuple[Block, Spans, Spans, Spans | None]


def read_interactions(
    file: TextFile, data_format: str | None = None, columns: Columns | None = None
) -> tuple[Interactions, Layout]:
    """Read a whole file.

    Args:
        file: The text.
        data_format: A name in ``FORMATS``; None recognises it.
        columns: Column names, for formats with names.

    Returns:
        The interactions in file order, and how the file was read.

    Raises:
        UserError: The file cannot be read in this format; names file, line and value.
    """
    blocks = read_blocks(file)
    first = next(blocks)
    layout = find_layout(first, data_format, columns or Columns())
    blocks = itertools.chain([first], blocks)
    users, items, times = IdCodes("user id"), IdCodes("item id"), []
    for block, user, item, time in _rows(blocks, layout):
        users.add(block, user)
        items.add(block, item)
        if time is not None:
            times.append(parse_numbers(block, time, "time"))
    if not users.count:
        raise UserError(f"{file}: the file has no interactions")
    (users_T, user_ids), (items_T, item_ids) = users.finish(), items.finish()
    times_T = np.concatenate(times) if times else None
    return Interactions(users_T, items_T, times_T, user_ids, item_ids), layout


def _rows(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    if layout.has_header:
        blocks = _without_header(blocks)
    if layout.data_format == "pairs":
        return map(_pairs, blocks)
    if layout.data_format == "histories":
        return map(_histories, blocks)
    if layout.data_format == "jsonl":
        return _json_lines(blocks, layout)
    return _delimited(blocks, layout)


def _without_header(blocks: Iterator[Block]) -> Iterator[Block]:
    first = next(blocks)
    skipped = first.data.lstrip(b"\n").partition(b"\n")[2]
    lines = first.data.count(b"\n") - skipped.count(b"\n")
    if skipped:
        yield Block(first.file, skipped, first.first_line + lines)
    yield from blocks


def _delimited(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    for block in blocks:
        if layout.data_format == "csv" and b'"' in block.data:
            # A quoted field may hold delimiters and newlines: this block and all behind it.
            yield from _quoted(itertools.chain([block], blocks), layout)
            return
        delimiter = layout.delimiter
        if delimiter == "::":
            data = block.data.replace(b"::", b"\t")
            block, delimiter = Block(block.file, data, block.first_line), "\t"
        fields = _fields(block, delimiter, len(layout.names))
        time = None if layout.time is None else fields[:, layout.time]
        yield block, fields[:, layout.user], fields[:, layout.item], time


def _fields(block: Block, delimiter: str, count: int) -> Spans:
    """Return the spans of all fields, (lines, count), of a block whose lines have ``count``."""
    text = np.frombuffer(block.data, np.uint8)
    newline = text == ord("\n")
    breaks = np.flatnonzero(newline | (text == ord(delimiter)))
    ends_line = newline[breaks]
    starts = np.concatenate([[0], breaks[:-1] + 1])
    if b"\n\n" in block.data or block.data.startswith(b"\n"):
        opens_line = np.concatenate([[True], ends_line[:-1]])
        blank = ends_line & opens_line & (breaks == starts)
        breaks, starts, ends_line = breaks[~blank], starts[~blank], ends_line[~blank]
    expected = np.arange(1, breaks.size + 1) % count == 0
    wrong = np.flatnonzero(ends_line != expected)
    if wrong.size:
        start = int(starts[wrong[0]])
        line = block.data[block.data.rfind(b"\n", 0, start) + 1 :].split(b"\n", 1)[0]
        found = line.count(delimiter.encode()) + 1
        raise block.error(start, f"{found} fields where {count} are expected")
    return Spans(starts.reshape(-1, count), breaks.reshape(-1, count))


def _words(block: Block) -> tuple[Spans, np.ndarray]:
    """Return the spans of words between white space, and the number in the block of their line."""
    text = np.frombuffer(block.data, np.uint8)
    newline = text == ord("\n")
    gap = newline | (text == ord(" ")) | (text == ord("\t"))
    starts = np.flatnonzero(~gap & np.concatenate([[True], gap[:-1]]))
    ends = np.flatnonzero(gap & ~np.concatenate([[True], gap[:-1]]))
    return Spans(starts, ends), np.searchsorted(np.flatnonzero(newline), starts)


def _pairs(block: Block) -> Rows:
    words, line = _words(block)
    counts = np.bincount(line)
    wrong = np.flatnonzero((counts != 2) & (counts != 0))
    if wrong.size:
        start = int(words.starts[np.searchsorted(line, wrong[0])])
        raise block.error(start, f"{counts[wrong[0]]} words where a user and an item are expected")
    return block, words[0::2], words[1::2], None


def _histories(block: Block) -> Rows:
    words, line = _words(block)
    opens = np.diff(line, prepend=-1) != 0
    user = np.flatnonzero(opens)[np.cumsum(opens) - 1]
    return block, words[user[~opens]], words[~opens], None


def _quoted(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    """Read CSV with quoted fields, one row at a time."""
    first = next(blocks)
    blocks = itertools.chain([first], blocks)
    # Unlike splitlines, StringIO breaks lines at newlines alone.
    lines = (line for block in blocks for line in io.StringIO(block.data.decode(), newline="\n"))
    reader = csv.reader(lines, delimiter=layout.delimiter, strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        while True:
            number = first.first_line + reader.line_num
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise line_error(first.file, number, f"broken CSV ({error})") from None
            if row and len(row) != len(layout.names):
                problem = f"{len(row)} fields where {len(layout.names)} are expected"
                raise line_error(first.file, number, problem)
            if row:
                yield number, row

    return _repacked(first.file, rows(), layout)


def _json_lines(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    first = next(blocks)
    names = {name: index for index, name in enumerate(layout.names)}
    wanted = [layout.names[i] for i in (layout.user, layout.item, layout.time) if i is not None]

    def rows() -> Iterator[tuple[int, list[str]]]:
        lines = (
            line
            for block in itertools.chain([first], blocks)
            for line in block.data.removesuffix(b"\n").split(b"\n")
        )
        for number, line in enumerate(lines, first.first_line):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise line_error(first.file, number, "is not JSON") from None
            row = [""] * len(names)
            for name in wanted:
                value = record.get(name) if isinstance(record, dict) else None
                if not isinstance(value, str | int | float):
                    raise line_error(first.file, number, f"no {name!r} that is text or a number")
                row[names[name]] = str(value)
            yield number, row

    return _repacked(first.file, rows(), layout)


def _repacked(
    file: TextFile, rows: Iterator[tuple[int, list[str]]], layout: Layout
) -> Iterator[Rows]:
    """Turn numbered rows into blocks of plain tab-separated fields."""
    indices = [i for i in (layout.user, layout.item, layout.time) if i is not None]
    while batch := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        lines = []
        for number, row in batch:
            fields = [row[i] for i in indices]
            if any("\t" in field or "\n" in field for field in fields):
                raise line_error(file, number, "an id holds a tab or newline")
            lines.append("\t".join(fields) + "\n")
        numbers = [number for number, _ in batch]
        block = Block(file, "".join(lines).encode("utf-8", "replace"), numbers[0], numbers)
        spans = _fields(block, "\t", len(indices))
        yield block, spans[:, 0], spans[:, 1], spans[:, 2] if len(indices) == 3 else None
