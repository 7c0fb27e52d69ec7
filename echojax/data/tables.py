"""Rows of files of text: each reader yields blocks of columns, with the lines they stand in."""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from echojax.data.formats import Layout
from echojax.data.text import Block, TextFile, line_error, words
from echojax.errors import UserError

_ROWS_AT_ONCE = 1 << 17
_BLANKS = " \t\r"


@dataclass(frozen=True)
class Place:
    """Where rows stand in a file.

    Attributes:
        file: The file.
        numbers: Number of each row's line, from 1; of a file without lines, of the row.
        unit: "line" or "row".
    """

    file: TextFile
    numbers: Sequence[int] | np.ndarray
    unit: str = "line"

    def error(self, row: int, problem: str) -> UserError:
        """Return the error for ``problem`` in a row of the block."""
        return UserError(f"{self.file}, {self.unit} {self.numbers[row]}: {problem}")


@dataclass(frozen=True)
class Rows:
    """A block of rows: users and items as text, times as they are; None where there are none."""

    place: Place
    users: pl.Series
    items: pl.Series
    times: pl.Series | None


def read_rows(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    """Yield the rows of a file's blocks in file order.

    Raises:
        UserError: A line does not fit the layout; names the line.
    """
    if layout.has_header:
        blocks = _without_header(blocks)
    if layout.data_format in ("pairs", "histories"):
        return _words(blocks, layout.data_format == "pairs")
    if layout.data_format == "jsonl":
        return _json_lines(blocks, layout)
    return _delimited(blocks, layout)


def _without_header(blocks: Iterator[Block]) -> Iterator[Block]:
    first = next(blocks)
    lines = first.data.split(b"\n")
    header = next(number for number, line in enumerate(lines) if line.strip())
    if rest := b"\n".join(lines[header + 1 :]):
        yield Block(first.file, rest, first.first_line + header + 1)
    yield from blocks


def _delimited(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    for block in blocks:
        if layout.quoted and b'"' in block.data:
            data = _without_quotes(block.data, layout.delimiter)
            if data is None:
                # A quoted field may hold delimiters and newlines: this block and all after it.
                yield from _quoted(itertools.chain([block], blocks), layout)
                return
            block = Block(block.file, data, block.first_line)
        table, numbers = _table(block, layout)
        used = [table[str(i)].fill_null("").str.strip_chars(_BLANKS) for i in layout.used]
        yield _rows(Place(block.file, numbers), used)


def _without_quotes(data: bytes, delimiter: str) -> bytes | None:
    """Return text without its quotes; None where they do more than stand around simple fields."""
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
    """Return the columns in use, by their index as text, and each row's line."""
    data, delimiter, count = block.data, layout.delimiter, len(layout.names)
    numbers: Sequence[int] = range(block.first_line, block.first_line + data.count(b"\n"))
    if b"\n\n" in data or data.startswith(b"\n"):
        lines = [(n, line) for n, line in zip(numbers, data.split(b"\n"), strict=False) if line]
        numbers, data = [n for n, _ in lines], b"".join(line + b"\n" for _, line in lines)
    if len(delimiter) > 1:  # polars knows delimiters of one byte, and text has no NUL
        data, delimiter = data.replace(delimiter.encode(), b"\0"), "\0"
    # Polars refuses rows with too many fields and fills those with too few: then there are fewer
    # delimiters than all rows together should have.
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
    if wrong or table.height != len(numbers):
        raise _ragged(block, layout)
    return table, numbers


def _ragged(block: Block, layout: Layout) -> UserError:
    for number, line in enumerate(block.data.split(b"\n"), block.first_line):
        found = line.count(layout.delimiter.encode()) + 1
        if line and found != len(layout.names):
            return line_error(block.file, number, _expected(found, layout))
    return line_error(block.file, block.first_line, "this and the next lines cannot be read")


def _expected(found: int, layout: Layout) -> str:
    return f"{found} fields where {len(layout.names)} are expected"


def _rows(place: Place, used: list[pl.Series]) -> Rows:
    return Rows(place, used[0], used[1], used[2] if len(used) == 3 else None)


def _quoted(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    """Read tables with quoted fields, one row at a time."""
    first = next(blocks)
    blocks = itertools.chain([first], blocks)
    # Unlike splitlines, StringIO breaks lines at newlines only.
    lines = (line for block in blocks for line in io.StringIO(block.data.decode(), newline="\n"))
    reader = csv.reader(lines, delimiter=layout.delimiter, strict=True, skipinitialspace=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        while True:
            number = first.first_line + reader.line_num
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raw = "; --data-format inter takes quotes as they are" * (layout.delimiter == "\t")
                raise line_error(first.file, number, f"broken CSV ({error}){raw}") from None
            if row and len(row) != len(layout.names):
                raise line_error(first.file, number, _expected(len(row), layout))
            if row:
                yield number, [row[i] for i in layout.used]

    return _batched(first.file, rows())


def _json_lines(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    """Read one JSON object a line."""
    first = next(blocks)
    wanted = [layout.names[i] for i in layout.used]

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
            row = []
            for name in wanted:
                value = record.get(name) if isinstance(record, dict) else None
                if not isinstance(value, str | int | float):
                    raise line_error(first.file, number, f"no {name!r} that is text or a number")
                row.append(str(value))
            yield number, row

    return _batched(first.file, rows())


def _batched(file: TextFile, rows: Iterator[tuple[int, list[str]]]) -> Iterator[Rows]:
    while batch := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        place = Place(file, [number for number, _ in batch])
        columns = zip(*(row for _, row in batch), strict=True)
        yield _rows(place, [_text(column).str.strip_chars(_BLANKS) for column in columns])


def _text(column: tuple[str, ...]) -> pl.Series:
    try:
        return pl.Series(column, dtype=pl.String)
    except UnicodeEncodeError:  # halves of surrogate pairs, which JSON can write
        whole = [text.encode("utf-8", "replace").decode() for text in column]
        return pl.Series(whole, dtype=pl.String)


def _words(blocks: Iterator[Block], pairs: bool) -> Iterator[Rows]:
    """Read lines of ``user item``, or of ``user item item ...``."""
    for block in blocks:
        lines = block.data.split(b"\n")
        counts = np.fromiter(map(len, map(words, lines)), np.int64, len(lines))
        wrong = np.flatnonzero((counts != 2) & (counts != 0))
        if pairs and wrong.size:
            problem = f"{counts[wrong[0]]} words where a user and an item are expected"
            raise line_error(block.file, block.first_line + int(wrong[0]), problem)
        text = pl.Series(words(block.data), dtype=pl.Binary).cast(pl.String)
        user, line = np.cumsum(counts) - counts, np.repeat(np.arange(counts.size), counts)
        items = np.flatnonzero(np.arange(len(text)) != user[line])
        place = Place(block.file, block.first_line + line[items])
        yield Rows(place, text.gather(user[line[items]]), text.gather(items), None)
