"""Formats whose lines take a parser: quoted CSV and JSON, row by row to blocks of plain fields."""

import csv
import io
import itertools
import json
from collections.abc import Iterator

from echojax.data.formats import Layout
from echojax.data.spans import Rows, split_fields
from echojax.data.text import Block, TextFile, line_error

_ROWS_AT_ONCE = 1 << 17


def read_quoted_csv(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
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


def read_json_lines(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    """Read one JSON object a line."""
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
        spans = split_fields(block, "\t", len(indices))
        yield block, spans[:, 0], spans[:, 1], spans[:, 2] if len(indices) == 3 else None
