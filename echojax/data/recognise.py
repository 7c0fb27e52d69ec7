"""Find the layout of a text file: given by the user, or recognised from the first lines."""

import csv
import json
import re
from contextlib import suppress
from pathlib import PurePath

from echojax.data.layouts import COLUMNAR, FORMATS, RATED, Columns, Fields, Layout, is_header
from echojax.data.text import TextFile, line_error
from echojax.data.times import plausible
from echojax.errors import UserError, unknown_name

_ROLES = ("user", "item", "rating", "time")
_AMAZON_ITEM = re.compile(r"B[0-9A-Z]{9}|\d{9}[\dX]")
_AMAZON_USER = re.compile(r"A[0-9A-Z]{9,}")
_ANY = Columns()
_MOST_COLUMNS = 1000  # with more, all events are in one line, as in dumps of databases
_AROUND_NAMES = " \u00a0\u200b\ufeff"  # no-break and zero-width spaces, byte order marks
_INTER_FIELD = re.compile(r"[^\s:]+:(token|float)(_seq)?")


def recognise_events(file: TextFile, lines: list[str], columns: Columns) -> tuple[Layout, Fields]:
    """Return the layout of a file of text that begins with ``lines``, and its first rows."""
    chosen = columns.data_format
    if chosen is not None and chosen not in FORMATS:
        raise unknown_name("--data-format", chosen, list(FORMATS))
    if chosen in COLUMNAR.values():
        raise UserError(f"{file}: is no {chosen} file; drop --data-format")
    if columns.names is not None:
        return _with_given_names(file, lines, columns.names, chosen)
    if chosen is not None:
        return _with_given_format(file, lines, chosen)
    return _recognised(file, lines, columns)


def lines_before(lines: list[str], columns: Columns) -> int:
    """Return how many first lines are no part of a table: Excel's ``sep=;``, or comments.

    A line with usual names of columns is a header, even if it begins with a hash sign.
    """
    number = int(bool(re.fullmatch(r'"?sep=.?"?', lines[0].strip(), re.IGNORECASE)))
    while number < len(lines) and re.match(r"#\s|%[%\s]", lines[number] + "\n"):
        delimiter, rows, _ = _table(lines[number:])
        if delimiter and is_header(rows[0], columns):
            break
        number += 1
    return number


def is_no_history(lines: list[str]) -> bool:
    """Return whether lines are a table, JSON or lists, and not ``user item item ...``."""
    delimiter, rows, _ = _table(lines)
    if _typed_delimiter(lines[0]):
        return True
    if delimiter and (is_header(rows[0], _ANY) or _looks_like_header(rows)):
        return True
    if delimiter and _rated(rows, _time_columns(rows)):
        return True
    split = [_words(line) for line in lines]
    alone = len(split[0]) == 1 and any(sign in lines[0] for sign in (",", ";", "|", "::"))
    json = re.match(r'\s*[\[{]\s*["\[{]', lines[0])
    return bool(alone or json or is_header(split[0], _ANY) or _in_marks(split))


def recognise_items(file: TextFile, lines: list[str], columns: Columns) -> tuple[Layout, Fields]:
    """Return the layout of a file of text that describes items, and its first rows."""
    if lines[0].lstrip().startswith("{"):
        return _json(file, lines)
    if _typed_delimiter(lines[0]):
        return _inter(file, lines)
    delimiter, rows, _ = _table(lines)
    return _with_header(file, "tsv" if delimiter == "\t" else "csv", delimiter or ",", rows)


def _with_given_names(
    file: TextFile, lines: list[str], names: str, data_format: str | None
) -> tuple[Layout, Fields]:
    """Return the layout of a table whose columns are named by the user, and its first rows."""
    columns = tuple(name.strip() for name in names.split(","))
    if data_format not in (None, "csv", "tsv", "inter"):
        raise UserError(f"--columns is for tables, not for --data-format {data_format}")
    quoted, delimiters = data_format != "inter", ("\t", *",;|", "::", " ")
    tables = {delimiter: _split(lines, delimiter, quoted=quoted) for delimiter in delimiters}
    for delimiter, rows in tables.items():
        if len(rows[0]) == len(columns):
            if _looks_like_header(rows) or tuple(rows[0]) == columns or is_header(rows[0], _ANY):
                what = "is a header; drop --columns, or delete the line"
                raise line_error(file, 1, f"{lines[0][:60]!r} {what}")
            kind = "inter" if not quoted else "tsv" if delimiter == "\t" else "csv"
            return Layout(kind, delimiter, columns), rows
    most = max(tables.values(), key=lambda rows: len(rows[0]))[0]
    raise UserError(
        f"{file}: --columns names {len(columns)} columns and the first row has {len(most)}: "
        f"{lines[0][:60]!r}"
    )


def _with_given_format(file: TextFile, lines: list[str], chosen: str) -> tuple[Layout, Fields]:
    """Return the layout of a file whose format is given by the user, and its first rows."""
    if chosen in ("pairs", "histories"):
        if is_header(_words(lines[0]), _ANY):
            raise line_error(file, 1, f"{lines[0][:60]!r} is a header; delete the line")
        return Layout(chosen), []
    if chosen == "jsonl":
        return _json(file, lines)
    if chosen == "inter":
        return _inter(file, lines)
    delimiter, rows, _ = _table(lines)
    if chosen in RATED:
        usual = delimiter if len(rows[0]) == len(_ROLES) else RATED[chosen]
        return Layout(chosen, usual, _ROLES, (0, 1, 3)), rows
    delimiter = "\t" if chosen == "tsv" else delimiter or ","
    return _with_header(file, chosen, delimiter, _split(lines, delimiter))


def _recognised(file: TextFile, lines: list[str], columns: Columns) -> tuple[Layout, Fields]:
    """Return the layout that fits every column of the first rows, and these rows."""
    if PurePath(file.name).suffix == ".inter" or _typed_delimiter(lines[0]):
        return _inter(file, lines)
    if lines[0].lstrip().startswith("{"):
        return _json(file, lines)
    delimiter, rows, alike = _table(lines)
    if delimiter not in ("", "\t") and len(rows[0]) > _MOST_COLUMNS:
        problem = f"has {len(rows[0]):,} fields between {delimiter!r}; write a line for each event"
        raise line_error(file, 1, problem)
    kind = "tsv" if delimiter == "\t" else "csv"
    if delimiter and (is_header(rows[0], columns) or _looks_like_header(rows)):
        return _with_header(file, kind, delimiter, rows)
    if is_header(_words(lines[0]), columns):
        raise line_error(file, 1, "blanks stand between the names of the columns; use tabs")
    times = _time_columns(rows)
    if delimiter and (names := _rated(rows, times)):
        if names == _ROLES:
            kind = {"::": "ratings.dat", "\t": "u.data"}.get(delimiter, "ratings.csv")
        used = (names.index("user"), names.index("item"), names.index("time"))
        return Layout(kind, delimiter, names, used), rows
    published = file.name if file.name in RATED else None
    if file.name.startswith("ratings") and file.name.endswith(".csv"):
        published = "ratings.csv"
    if published and len(rows[0]) == len(_ROLES) and not times:
        return Layout(published, delimiter, _ROLES, (0, 1, 3)), rows
    tabs = len(rows[0]) if alike and delimiter == "\t" else 0
    if (delimiter in ("", "\t") or not alike) and (chosen := _words_only(lines, tabs)):
        return Layout(chosen), []
    raise _not_recognised(file, lines, rows, times)


def _not_recognised(file: TextFile, lines: list[str], rows: Fields, times: list[int]) -> UserError:
    width = len(rows[0])
    if width < 2:
        rows = [_words(line) for line in lines]
        width, times = len(rows[0]), _time_columns(rows)
    others = [i for i in range(width) if i not in times[:1]]
    roles = dict(zip(others, ("user", "item"), strict=False)) | dict.fromkeys(times[:1], "time")
    example = ",".join(roles.get(i, "_") for i in range(width))
    more = ", ".join(repr(line[:60]) for line in lines[1:3])
    return UserError(
        f"{file}: format not recognised from {lines[0][:60]!r}; choose --data-format "
        f"{', '.join(FORMATS)}; or name a header's columns with --user-column and --item-column, "
        f"or say what the {width} columns are, as in --columns {example}"
        + (f" (next rows: {more})" if more else "")
    )


def _inter(file: TextFile, lines: list[str]) -> tuple[Layout, Fields]:
    delimiter = _typed_delimiter(lines[0]) or "\t"
    rows = _split(lines, delimiter, quoted=False)
    if delimiter not in lines[0]:
        raise line_error(file, 1, f"no tab in the header {lines[0][:60]!r}")
    for name in rows[0]:
        if re.match(r"item\w*_list:\w+_seq", name):
            problem = f"{name!r} holds a whole history in each row; write a row for each event"
            raise line_error(file, 1, problem)
    rows[0] = [name.split(":")[0].strip() for name in rows[0]]
    return _with_header(file, "inter", delimiter, rows)


def _json(file: TextFile, lines: list[str]) -> tuple[Layout, Fields]:
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            records.append(None)
    if not isinstance(records[0], dict):
        raise line_error(file, 1, "is not a JSON object; write one object a line")
    objects = [record for record in records if isinstance(record, dict)]
    # A record may lack what others have.
    names = tuple(dict.fromkeys(name for record in objects for name in record))
    values = ([record.get(name) for name in names] for record in objects)
    rows = [[str(v) if isinstance(v, str | int | float) else "" for v in row] for row in values]
    return Layout("jsonl", "", names), rows


def _with_header(file: TextFile, kind: str, delimiter: str, rows: Fields) -> tuple[Layout, Fields]:
    names = tuple(name.strip(_AROUND_NAMES) for name in rows[0])
    if all(re.fullmatch("'.*'", name) for name in names):
        raise UserError(f"{file}: its fields are in single quotes; write it with double quotes")
    return Layout(kind, delimiter, names, has_header=True), rows[1:]


def _typed_delimiter(header: str) -> str | None:
    """Return the delimiter of a header in RecBole's form; ``None`` if it is none."""
    for delimiter in "\t,;| ":
        fields = [field.strip() for field in header.split(delimiter)]
        if all(map(_INTER_FIELD.fullmatch, fields)):
            return delimiter
    return None


def _table(lines: list[str]) -> tuple[str, Fields, bool]:
    """Return the delimiter that gives most fields, the fields, and whether all lines agree."""
    best, delimiter, rows = (False, 1), "", [[line] for line in lines]
    for candidate in ("\t", ",", ";", "|", "::"):
        split = _split(lines, candidate)
        width = len(split[0])
        alike = 10 * sum(len(row) == width for row in split) >= 9 * len(split)
        if width > 1 and (alike, width) > best:
            best, delimiter, rows = (alike, width), candidate, split
    return delimiter, rows, best[0]


def _split(lines: list[str], delimiter: str, *, quoted: bool = True) -> Fields:
    """Return the fields of lines, without surrounding blanks."""
    rows = [line.split(delimiter) for line in lines]
    if quoted and len(delimiter) == 1:
        with suppress(csv.Error):  # raised again, with its line, where the rows are read
            rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    return [[field.strip(" \t\r") for field in row] for row in rows if row] or [[""]]


def _time_columns(rows: Fields) -> list[int]:
    """Return the columns that hold times, in the first row too; none in histories between tabs."""
    columns = enumerate(_whole_columns(rows))
    return [i for i, column in columns if plausible(column[:1]) and plausible(column)]


def _whole_columns(rows: Fields) -> list[list[str]]:
    """Return the columns of those rows that have as many fields as the first, unless too many."""
    width = len(rows[0])
    whole = [row for row in rows if len(row) == width <= _MOST_COLUMNS]
    return [list(column) for column in zip(*whole, strict=True)]


def _rated(rows: Fields, times: list[int]) -> tuple[str, ...] | None:
    """Return the names of columns without a header: user, item, one time, perhaps a rating."""
    columns = _whole_columns(rows)
    if len(times) != 1 or times[0] < 2 or len(columns) > len(_ROLES):
        return None
    if any(re.fullmatch(r"-?\d*\.\d+", value) for ids in columns[:2] for value in ids):
        return None
    names = ["user", "item", "rating", "rating"][: len(columns)]
    if all(map(_AMAZON_ITEM.fullmatch, columns[0])) and all(
        map(_AMAZON_USER.fullmatch, columns[1])
    ):
        names[:2] = "item", "user"  # the order in Amazon's ratings of 2018
    names[times[0]] = "time"
    others = (column for name, column in zip(names, columns, strict=True) if name == "rating")
    if not all(_is_number(r) and abs(float(r)) <= 100 for column in others for r in column):
        return None
    return tuple(names)


def _words_only(lines: list[str], tabs: int) -> str | None:
    """Return ``pairs`` or ``histories`` where lines of words are one of them, and not a table.

    ``tabs`` is the number of tab-separated fields of every line; 0 if there is no such number.
    """
    rows = [_words(line) for line in lines]
    counts = [len(row) for row in rows]
    if _more_than_ids(rows) or _counted(rows):
        return None
    if 2 * counts.count(2) > len(counts):
        both = [row for row in rows if len(row) == 2]
        return None if tabs > 2 or _time_columns(both) or _looks_like_header(both) else "pairs"
    if tabs or max(counts) == 1 or plausible([row[-1] for row in rows]):
        return None
    if len(counts) > 1 and 10 * max(map(counts.count, counts)) >= 9 * len(counts):
        # Lines of equal length are rather a table without its header, unless no user comes twice
        # and all columns draw from one set of items.
        columns = [set(column) for column in zip(*rows, strict=False)]
        apart = any(
            not column & set().union(*columns[1:i], *columns[i + 1 :])
            for i, column in enumerate(columns)
            if i
        )
        if max(counts) < 5 or len(columns[0]) < len(rows) or apart or _time_columns(rows):
            return None
    return "histories"


def _more_than_ids(rows: Fields) -> bool:
    """Return whether words are more than ids.

    That are lists (``7 [2,3]``), counts and times (``7 2:1``, ``7 2@160``, ``7 2 10:38:00``), marks
    (``7: 2``) or quotes (``"7" "2"``).
    """
    items = [item for row in rows for item in row[1:]]
    return bool(items) and (
        any("," in item or re.fullmatch(r"\d\d?:\d\d:\d\d", item) for item in items)
        or _in_marks(rows)
        or all(re.fullmatch(r"\d+[:|]-?[\d.]+|[^@]+@-?\d[\d.]*", item) for item in items)
    )


def _counted(rows: Fields) -> bool:
    """Return whether lines have no user, but begin with the number of their items."""
    return len({len(row) for row in rows}) > 1 and all(row[0] == str(len(row) - 1) for row in rows)


def _in_marks(rows: Fields) -> bool:
    """Return whether words are in brackets or quotes, or the first ones before colons."""
    rows = [row for row in rows if len(row) > 1]
    return bool(rows) and (
        all(row[0].endswith(":") for row in rows)
        or all(row[1][0] == "[" and row[-1][-1] == "]" for row in rows)
        or any('"' in (item[0], item[-1]) for row in rows for item in row[1:])
    )


def _words(line: str) -> list[str]:
    # Of bytes, as no-break spaces and other Unicode spaces are part of a word.
    return [word.decode() for word in line.encode().split()]


def _looks_like_header(rows: Fields) -> bool:
    """Return whether some column has a word in the first row, and numbers or times below."""
    columns = _whole_columns(rows)
    below = any(len(column) > 1 and all(map(_is_value, column[1:])) for column in columns)
    return below and not any(map(_is_value, rows[0]))


def _is_value(text: str) -> bool:
    return _is_number(text) or plausible([text])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
