"""Which layout a file of text has: told by the user, or recognised where only one fits."""

import json
from pathlib import PurePath

from echojax.data.evidence import (
    RATED,
    looks_like_header,
    rated,
    split_lines,
    split_table,
    time_columns,
    typed_delimiter,
    words_of,
    words_only,
)
from echojax.data.formats import (
    COLUMNAR,
    FORMATS,
    UNNAMED,
    Columns,
    Fields,
    Layout,
    is_header,
    with_roles,
)
from echojax.data.text import Block, TextFile, line_error
from echojax.errors import UserError, unknown_name

_NO_HEADER = {"ratings.dat": "::", "u.data": "\t", "ratings.csv": ","}
_SAMPLE_LINES = 50


def find_layout(first: Block, data_format: str | None, columns: Columns) -> Layout:
    """Return the layout of the file of text that begins with the block ``first``.

    Args:
        first: The file's first lines.
        data_format: A name in ``FORMATS``, or None to recognise it by name and first lines.
        columns: Names asked for, in formats with names.

    Raises:
        UserError: The format is unknown or not recognised, or a column is missing.
    """
    file, lines = first.file, _first_lines(first)
    if data_format is not None and data_format not in FORMATS:
        raise unknown_name("--data-format", data_format, list(FORMATS))
    if data_format in COLUMNAR.values():
        raise UserError(f"{file}: is no {data_format} file; drop --data-format")
    named = (columns.user, columns.item, columns.time, columns.names) != (None,) * 4
    if data_format in UNNAMED and named:
        raise UserError(
            f"{file}: {data_format} has no column names; drop the flags that name columns, or "
            "choose another --data-format"
        )
    if columns.names is not None:
        layout, rows = _told(file, lines, columns.names, data_format)
    elif data_format is not None:
        layout, rows = _forced(file, lines, data_format)
    else:
        layout, rows = _recognised(file, lines, columns)
    if layout.data_format in UNNAMED or not layout.names:
        return layout
    return with_roles(file, layout, rows, columns)


def _first_lines(first: Block) -> list[str]:
    text = first.data[: 1 << 20].decode("utf-8", "ignore")
    lines = [line for line in text.split("\n")[:_SAMPLE_LINES] if line.strip()]
    if not lines:
        raise UserError(f"{first.file}: the file has no interactions")
    if "\r" in lines[0].strip():
        raise line_error(
            first.file, 1, "carriage returns without line feeds; convert the file (mac2unix)"
        )
    return lines


def _told(
    file: TextFile, lines: list[str], names: str, data_format: str | None
) -> tuple[Layout, Fields]:
    """Return the layout of a table whose columns the user names, and its first rows."""
    columns = tuple(name.strip() for name in names.split(","))
    if data_format not in (None, "csv", "tsv"):
        raise UserError(f"--columns is for tables, not for --data-format {data_format}")
    tables = {delimiter: split_lines(lines, delimiter) for delimiter in ("\t", *",;|", "::", " ")}
    for delimiter, rows in tables.items():
        if len(rows[0]) == len(columns):
            chosen = "tsv" if delimiter == "\t" else "csv"
            return Layout(chosen, delimiter, columns), rows
    most = max(tables.values(), key=lambda rows: len(rows[0]))[0]
    raise UserError(
        f"{file}: --columns names {len(columns)} columns and the first row has {len(most)}: "
        f"{lines[0][:60]!r}"
    )


def _forced(file: TextFile, lines: list[str], chosen: str) -> tuple[Layout, Fields]:
    """Return the layout of a file whose format the user names, and its first rows."""
    if chosen in ("pairs", "histories"):
        return Layout(chosen), []
    best, rows, _ = split_table(lines)
    if chosen in _NO_HEADER:
        usual = best if len(rows[0]) == 4 else _NO_HEADER[chosen]
        return Layout(chosen, usual, RATED, 0, 1, 3), rows
    if chosen == "jsonl":
        return _json(file, lines)
    if chosen == "inter":
        return _inter(file, lines)
    delimiter = "\t" if chosen == "tsv" else best or ","
    return _with_header(chosen, delimiter, split_lines(lines, delimiter))


def _recognised(file: TextFile, lines: list[str], columns: Columns) -> tuple[Layout, Fields]:
    """Return the layout that every column of the first rows fits, and these rows.

    Raises:
        UserError: It could be none of them, or more than one.
    """
    if PurePath(file.name).suffix == ".inter" or typed_delimiter(lines[0]):
        return _inter(file, lines)
    if lines[0].startswith("{"):
        return _json(file, lines)
    delimiter, rows, alike = split_table(lines)
    kind = "tsv" if delimiter == "\t" else "csv"
    if delimiter and (is_header(rows[0], columns) or looks_like_header(rows)):
        return _with_header(kind, delimiter, rows)
    if is_header(words_of(lines[0]), columns):
        raise line_error(file, 1, "blanks stand between the names of the columns; use tabs")
    times = time_columns(rows)
    if delimiter and (names := rated(rows, times)):
        usual = next((name for name, sign in _NO_HEADER.items() if sign == delimiter), kind)
        if names != RATED:
            usual = kind
        elif usual == "csv":
            usual = "ratings.csv"
        return Layout(usual, delimiter, names, 0, 1, names.index("time")), rows
    published = _published(file.name)
    if published and len(rows[0]) == 4 and not times:
        return Layout(published, delimiter, RATED, 0, 1, 3), rows
    tabs = len(rows[0]) if alike and delimiter == "\t" else 0
    if (delimiter in ("", "\t") or not alike) and (chosen := words_only(lines, tabs)):
        return Layout(chosen), []
    raise _not_recognised(file, lines, rows, times)


def _published(name: str) -> str | None:
    """Return the format of the files that publishers give this name."""
    if name.startswith("ratings") and name.endswith(".csv"):
        return "ratings.csv"
    return name if name in ("u.data", "ratings.dat") else None


def _not_recognised(file: TextFile, lines: list[str], rows: Fields, times: list[int]) -> UserError:
    width = len(rows[0])
    if width < 2:
        rows = [words_of(line) for line in lines]
        width, times = len(rows[0]), time_columns(rows)
    others = [i for i in range(width) if i not in times[:1]]
    roles = dict(zip(others, ("user", "item"), strict=False)) | dict.fromkeys(times[:1], "time")
    example = ",".join(roles.get(i, "_") for i in range(width))
    more = "".join(f", {line[:60]!r}" for line in lines[1:3])
    return UserError(
        f"{file}: format not recognised from {lines[0][:60]!r}; choose --data-format "
        f"{', '.join(FORMATS)}; or name a header's columns with --user-column and --item-column, "
        f"or say what the {width} columns are, as in --columns {example}"
        + (f" (next rows: {more[2:]})" if more else "")
    )


def _inter(file: TextFile, lines: list[str]) -> tuple[Layout, Fields]:
    delimiter = typed_delimiter(lines[0]) or "\t"
    rows = split_lines(lines, delimiter, quoted=False)
    if delimiter not in lines[0]:
        raise line_error(file, 1, f"no tab in the header {lines[0][:60]!r}")
    names = tuple(name.split(":")[0].strip() for name in rows[0])
    return Layout("inter", delimiter, names, has_header=True), rows[1:]


def _json(file: TextFile, lines: list[str]) -> tuple[Layout, Fields]:
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            records.append(None)
    if not isinstance(records[0], dict):
        raise line_error(file, 1, "is not a JSON object (one a line is read)")
    names = tuple(records[0])
    found = [record for record in records if isinstance(record, dict)]
    rows = [[_text(record.get(name)) for name in names] for record in found]
    return Layout("jsonl", "", names), rows


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else ""


def _with_header(kind: str, delimiter: str, rows: Fields) -> tuple[Layout, Fields]:
    return Layout(kind, delimiter, tuple(rows[0]), has_header=True), rows[1:]
