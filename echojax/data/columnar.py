"""Parquet and Arrow (Feather) files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl

from echojax.data.formats import Columns, Layout, with_roles
from echojax.data.tables import Place, Rows
from echojax.data.text import ALWAYS_ALLOWED_BYTES, MAX_EXPANSION, TextFile, reading
from echojax.errors import UserError

_ROWS_AT_ONCE = 1 << 21
_ROW_BYTES = 24  # of a user, an item and a time


def read_columnar(
    file: TextFile, data_format: str, columns: Columns
) -> tuple[Layout, Iterator[Rows]]:
    """Return the layout of a Parquet or Arrow file, and its rows, a block at a time.

    Raises:
        UserError: The file is damaged, has too many rows for its size, or no such columns.
    """
    if columns.names is not None:
        raise UserError(f"{file}: has names of its own; drop --columns")
    with _scanned(file, data_format) as scan:
        schema = scan.collect_schema()
        height = scan.select(pl.len()).collect().item()
        plain = [name for name, kind in schema.items() if _is_plain(kind)]
        head = scan.select(plain).head(50).collect()
    size = file.path.stat().st_size
    if height * _ROW_BYTES > size * MAX_EXPANSION + ALWAYS_ALLOWED_BYTES:
        raise UserError(f"{file}: claims {height:,} rows in {size:,} bytes; not read")
    shown = [head[name].cast(pl.String).fill_null("") for name in plain]
    values = {name: column.to_list() for name, column in zip(plain, shown, strict=True)}
    names = tuple(schema.names())
    rows = [[values.get(name, [""] * head.height)[i] for name in names] for i in range(head.height)]
    layout = with_roles(file, Layout(data_format, names=names), rows, columns)
    for index in layout.used:
        kind = schema[names[index]]
        dates = index == layout.time and kind in (pl.Date, pl.Datetime)
        if not (dates or _is_plain(kind)) or (index != layout.time and kind.is_temporal()):
            raise UserError(f"{file}: column {names[index]!r} holds {kind}; text or numbers wanted")
    return layout, _rows(file, layout, height)


def _is_plain(kind: pl.DataType) -> bool:
    """Return whether values are text or numbers, or times that look like them as text."""
    named = kind in (pl.String, pl.Categorical, pl.Enum, pl.Date, pl.Datetime)
    return named or kind.is_integer() or kind.is_float()


def _rows(file: TextFile, layout: Layout, height: int) -> Iterator[Rows]:
    names = [layout.names[i] for i in layout.used]
    for start in range(0, height, _ROWS_AT_ONCE):
        with _scanned(file, layout.data_format) as scan:
            frame = scan.select(names).slice(start, _ROWS_AT_ONCE).collect()
        place = Place(file, range(start + 1, start + 1 + frame.height), "row")
        users, items = (_ids(frame[name], name, place) for name in names[:2])
        times = frame[names[2]] if len(names) == 3 else None
        if times is not None and times.null_count():
            raise place.error(int(times.is_null().arg_max() or 0), "the time is missing")
        if times is not None and times.dtype in (pl.Categorical, pl.Enum):
            times = times.cast(pl.String)
        yield Rows(place, users, items, times)


def _ids(column: pl.Series, name: str, place: Place) -> pl.Series:
    """Return ids as text; whole numbers that gaps made floats are written without a point."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
        whole = column.cast(pl.Int64, strict=False)
        odd = (column != whole.cast(column.dtype)).fill_null(False) | (
            whole.is_null() & column.is_not_null()
        )
        if odd.any():
            bad = int(odd.arg_max() or 0)
            raise place.error(bad, f"{name} {column[bad]} is no id; text or whole numbers wanted")
        column = whole
    return column.cast(pl.String).fill_null("").str.strip_chars(" \t\r")


@contextmanager
def _scanned(file: TextFile, data_format: str) -> Iterator[pl.LazyFrame]:
    """Give a file to read, and turn what polars raises, or dies of, into a ``UserError``."""
    with reading(file), file.path.open("rb") as raw, _no_panic_report():
        try:
            yield pl.scan_parquet(raw) if data_format == "parquet" else pl.scan_ipc(raw)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"{file}: damaged {data_format} file ({why})") from None


@contextmanager
def _no_panic_report() -> Iterator[None]:
    """Drop what polars itself writes to standard error before it raises: pages of its stack."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
