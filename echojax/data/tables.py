"""Rows of a file, block by block: tables, JSON lines, words, Parquet and Arrow files."""

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl

from echojax.data.layouts import Columns, Fields, Layout, columnar_format, with_roles
from echojax.data.recognise import lines_before, recognise_events
from echojax.data.rows import Place, Rows, is_plain, text_column
from echojax.data.text import (
    Block,
    TextFile,
    first_bytes,
    line_error,
    most_bytes,
    read_blocks,
    reading,
)
from echojax.errors import UserError

SAMPLE_ROWS = 50
_ROWS_AT_ONCE = 1 << 17  # in a block of readers that read line by line
_FRAME_ROWS = 1 << 21  # in a block of a Parquet or Arrow file
_ROW_BYTES = 24  # of a user, an item and a time in memory


# How the layout of a table is found: first that of text, then the columns in use.
Recognise = Callable[[TextFile, list[str], Columns], tuple[Layout, Fields]]
Choose = Callable[[object, Layout, Fields, Columns], Layout]


def read_rows(
    file: TextFile,
    columns: Columns,
    recognise: Recognise = recognise_events,
    choose: Choose = with_roles,
) -> tuple[Layout, Iterator[Rows]]:
    """Return the layout of a file, and its rows in blocks."""
    kind = columnar_format(b"" if file.member else first_bytes(file))
    if kind is not None:
        if columns.data_format not in (None, kind):
            raise UserError(
                f"{file}: is a file of format {kind}; drop --data-format {columns.data_format}"
            )
        return _columnar(file, kind, columns, choose)
    lines, first, blocks = begin_text(file, columns)
    if not lines:
        raise UserError(f"{file}: has no interactions")
    layout = choose(file, *recognise(file, lines, columns), columns)
    if layout.has_header:
        first = _below(first, lines[0])
    readers = {"jsonl": _json_lines, "pairs": _words, "histories": _words}
    read = readers.get(layout.data_format, _delimited)
    return layout, read(itertools.chain([first] if first.data else [], blocks), layout)


def begin_text(
    file: TextFile, columns: Columns = Columns()
) -> tuple[list[str], Block, Iterator[Block]]:
    """Return the first lines below comments, the first block from there on, and the others."""
    blocks = read_blocks(file)
    first = next(blocks)
    sample = first.data[: 1 << 20].decode("utf-8", "ignore").split("\n")[:SAMPLE_ROWS]
    lines = [line for line in sample if line.strip()]
    before = lines_before(lines, columns) if lines and columns.data_format is None else 0
    for line in lines[:before]:
        first = _below(first, line)
    lines = lines[before:]
    if lines and "\r" in lines[0].strip():
        problem = "carriage returns without line feeds; convert the file (mac2unix)"
        raise line_error(file, 1, problem)
    return lines, first, blocks


def _below(block: Block, line: str) -> Block:
    """Return what is below the first occurrence of a line."""
    start = block.data.index(b"\n", block.data.index(line.encode())) + 1
    number = block.first_line + block.data.count(b"\n", 0, start)
    return Block(block.file, block.data[start:], number)


def _delimited(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    quoted = layout.data_format in ("csv", "tsv", "ratings.csv") and len(layout.delimiter) == 1
    for block in blocks:
        if quoted and b'"' in block.data:
            data = _without_quotes(block.data, layout.delimiter)
            if data is None:
                # Quoted fields may hold delimiters and newlines: csv reads the rest of the file.
                yield from _quoted(block, blocks, layout)
                return
            block = Block(block.file, data, block.first_line)
        table, numbers = _table(block, layout)
        if all(table[name].null_count() for name in table.columns):
            table, numbers = _without_empty_rows(table, numbers, block, layout)
        used = [table[str(i)].fill_null("") for i in layout.used]
        yield Rows(Place(block.file, numbers), used)


def _without_empty_rows(
    table: pl.DataFrame, numbers: Sequence[int], block: Block, layout: Layout
) -> tuple[pl.DataFrame, Sequence[int]]:
    """Leave out the rows of empty fields (``;;;``) that spreadsheets write."""
    lines, nothing = block.data.split(b"\n"), layout.delimiter.encode() + b" "
    empty = table.select(pl.all_horizontal(pl.all().is_null())).to_series().arg_true().to_list()
    gone = [row for row in empty if not lines[numbers[row] - block.first_line].strip(nothing)]
    kept = np.delete(np.arange(table.height), gone).tolist()
    return table[kept], [numbers[row] for row in kept]


def _without_quotes(data: bytes, delimiter: str) -> bytes | None:
    """Return text without its quotes; ``None`` if some field needs them."""
    text = np.frombuffer(data, np.uint8)
    breaks = (text == ord("\n")) | (text == ord(delimiter))
    quotes = np.flatnonzero(text == ord('"'))
    opening, closing = quotes[::2], quotes[1::2]
    if opening.size != closing.size:
        return None
    after_break = breaks[opening - 1] | (opening == 0)
    passed = np.cumsum(breaks, dtype=np.int32)
    simple = after_break & breaks[closing + 1] & (passed[opening] == passed[closing])
    return data.replace(b'"', b"") if simple.all() else None


def _table(block: Block, layout: Layout) -> tuple[pl.DataFrame, Sequence[int]]:
    """Return the columns in use, named by their indices, and the number of each row's line."""
    data, delimiter, count = block.data, layout.delimiter, len(layout.names)
    numbers: Sequence[int] = range(block.first_line, block.first_line + data.count(b"\n"))
    if b"\n\n" in data or data.startswith(b"\n"):
        lines = [(n, line) for n, line in zip(numbers, data.split(b"\n"), strict=False) if line]
        numbers, data = [n for n, _ in lines], b"".join(line + b"\n" for _, line in lines)
    if len(delimiter) > 1:  # polars takes one byte as a delimiter, and the text has no NUL
        data, delimiter = data.replace(delimiter.encode(), b"\0"), "\0"
    # Polars refuses rows with too many fields, but fills rows with too few; these are found by the
    # number of delimiters.
    wrong = data.count(delimiter.encode()) != (count - 1) * len(numbers)
    try:
        table = pl.read_csv(
            io.BytesIO(data),
            has_header=False,
            separator=delimiter,
            quote_char=None,
            schema={str(i): pl.String for i in range(count)},
            columns=sorted(layout.used),
        )
    except pl.exceptions.PolarsError:
        wrong = True
    if not wrong and table.height == len(numbers):
        return table, numbers
    all_lines = block.data.split(b"\n")
    if delimiter != "\t" and any(line.isspace() for line in all_lines):
        data = b"\n".join(b"" if line.isspace() else line for line in all_lines)
        return _table(Block(block.file, data, block.first_line), layout)
    for number, line in enumerate(all_lines, block.first_line):
        found = line.count(layout.delimiter.encode()) + 1
        if line and found != count:
            raise line_error(block.file, number, f"{found} fields where {count} are expected")
    raise line_error(block.file, block.first_line, "this and the next lines cannot be read")


def _quoted(first: Block, blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    """Read a table with quoted fields row by row."""
    blocks = itertools.chain([first], blocks)
    # Unlike splitlines, StringIO breaks lines at newlines only.
    lines = (line for block in blocks for line in io.StringIO(block.data.decode(), newline="\n"))
    reader = csv.reader(lines, delimiter=layout.delimiter, strict=True, skipinitialspace=True)
    count = len(layout.names)

    def rows() -> Iterator[tuple[int, list[str]]]:
        while True:
            number = first.first_line + reader.line_num
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                inner = "quotes inside quotes are doubled"
                raw = "; --data-format inter takes quotes as they are" * (layout.delimiter == "\t")
                problem = f"broken CSV ({error}; {inner}){raw}"
                raise line_error(first.file, number, problem) from None
            if not any(map(str.strip, row)):
                continue
            if len(row) != count:
                problem = f"{len(row)} fields where {count} are expected"
                raise line_error(first.file, number, problem)
            yield number, [row[i] for i in layout.used]

    return _batched(first.file, rows())


def _json_lines(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    """Read one JSON object per line."""
    wanted = [layout.names[i] for i in layout.used]

    def rows(block: Block) -> Iterator[tuple[int, list[str]]]:
        for number, line in enumerate(block.data.split(b"\n"), block.first_line):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                problem = "is not JSON; write one object a line"
                raise line_error(block.file, number, problem) from None
            if not isinstance(record, dict):
                raise line_error(block.file, number, "is not a JSON object; write one a line")
            yield number, [_json_value(block.file, number, name, record) for name in wanted]

    return (batch for block in blocks for batch in _batched(block.file, rows(block)))


def _json_value(file: TextFile, number: int, name: str, record: dict[str, Any]) -> str:
    """Return a value as text; one that is missing or null is empty, as in a table."""
    value = record.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = "true or false" if isinstance(value, bool) else "a list or an object"
        problem = f"{name!r} is {kind}, not text or a number; write a line for each such value"
        raise line_error(file, number, problem)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        value = int(value)  # as in a column of floats
    return str(value)


def _batched(file: TextFile, rows: Iterator[tuple[int, list[str]]]) -> Iterator[Rows]:
    while batch := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        columns = zip(*(row for _, row in batch), strict=True)
        yield Rows(Place(file, [n for n, _ in batch]), [text_column(c) for c in columns])


def _words(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    """Read lines of ``user item``, or of ``user item item ...``."""
    for block in blocks:
        lines = block.data.split(b"\n")
        counts = np.fromiter((len(line.split()) for line in lines), np.int64, len(lines))
        wrong = np.flatnonzero((counts != 2) & (counts != 0))
        if layout.data_format == "pairs" and wrong.size:
            problem = f"{counts[wrong[0]]} words where a user and an item are expected"
            raise line_error(block.file, block.first_line + int(wrong[0]), problem)
        text = pl.Series(block.data.split(), dtype=pl.Binary).cast(pl.String)
        user, line = np.cumsum(counts) - counts, np.repeat(np.arange(counts.size), counts)
        items = np.flatnonzero(np.arange(len(text)) != user[line])
        numbers = block.first_line + line[items]
        users = text.gather(user[line[items]])
        yield Rows(Place(block.file, numbers), (users, text.gather(items)))


def _columnar(
    file: TextFile, kind: str, columns: Columns, choose: Choose
) -> tuple[Layout, Iterator[Rows]]:
    """Return the layout of a Parquet or Arrow file, and its rows in blocks."""
    if columns.names is not None:
        raise UserError(f"{file}: has names of its own; drop --columns")
    with _scanned(file, kind) as scan:
        schema = scan.collect_schema()
        height = scan.select(pl.len()).collect().item()
        plain = scan.select(name for name in schema if is_plain(schema[name]))
        sample = plain.head(SAMPLE_ROWS).collect().cast(pl.String).fill_null("")
    size = file.path.stat().st_size
    if height * _ROW_BYTES > most_bytes(size):
        raise UserError(f"{file}: claims {height:,} rows in {size:,} bytes; not read")
    rows = [[row.get(name, "") for name in schema] for row in sample.rows(named=True)]
    layout = choose(file, Layout(kind, names=tuple(schema.names())), rows, columns)
    return layout, _frames(file, layout, height)


def _frames(file: TextFile, layout: Layout, height: int) -> Iterator[Rows]:
    names = [layout.names[i] for i in layout.used]
    for start in range(0, height, _FRAME_ROWS):
        with _scanned(file, layout.data_format) as scan:
            frame = scan.select(names).slice(start, _FRAME_ROWS).collect()
        place = Place(file, range(start + 1, start + 1 + frame.height), "row")
        yield Rows(place, frame.get_columns())


@contextmanager
def _scanned(file: TextFile, kind: str) -> Iterator[pl.LazyFrame]:
    """Yield a file to read; errors and panics of polars become a ``UserError``."""
    with reading(file), file.path.open("rb") as raw, no_panic_report():
        try:
            yield pl.scan_parquet(raw) if kind == "parquet" else pl.scan_ipc(raw)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"{file}: damaged {kind} file ({why})") from None


@contextmanager
def no_panic_report() -> Iterator[None]:
    """Discard the stack trace that polars writes to standard error when it panics."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
