"""Events in memory: a frame of any library, a mapping of arrays, or the arrays themselves."""

import itertools
import numbers
from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from echojax.data.events import Events, collect
from echojax.data.layouts import Columns, Layout, known_column, with_roles
from echojax.data.rows import Place, Rows, check_kind, text_column
from echojax.data.tables import SAMPLE_ROWS
from echojax.data.titles import titles_of
from echojax.errors import UserError, one_line

_FRAME = "frame"  # its name in error messages
_WHOLE = (int, np.integer)
_NOTHING = ("NoneType", "NAType", "NaTType")  # types of None, pandas.NA and pandas.NaT


def read_frame(
    frame: Any, columns: Columns, title: str | None = None
) -> tuple[Events, dict[str, str]]:
    """Return the events of a frame, as ``Dataset.from_frame`` takes it, and titles by item id.

    ``title`` is the name of the column of titles.
    """
    if isinstance(frame, list | tuple) and len(frame) in (2, 3):
        frame = dict(zip(("user", "item", "time"), frame, strict=False))
    keys = column_names(frame)
    names = tuple(map(str, keys))
    samples = [_sample(frame, key) if names.count(str(key)) == 1 else [] for key in keys]
    rows = [list(row) for row in itertools.zip_longest(*samples, fillvalue="")]
    layout = with_roles(_FRAME, Layout(_FRAME, names=names), rows, columns)
    used = [column_of(frame, keys[i], times=n == 2) for n, i in enumerate(layout.used)]
    titled = []
    if title is not None:
        titled = [used[1], column_of(frame, keys[known_column(_FRAME, names, title, "titles")])]
    lengths = {column.name: column.len() for column in [*used, *titled]}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{column!r} has {length:,}" for column, length in lengths.items())
        raise UserError(f"{_FRAME}: columns differ in length ({shown} rows); cut or fill them")
    place = Place(_FRAME, range(used[0].len()), "position")
    events = collect([(_FRAME, layout, [Rows(place, used)])], columns)
    return events, titles_of(Rows(place, titled)) if titled else {}


def column_names(
    frame: Any, name: str = _FRAME, arrays: str = "(users, items, times)"
) -> list[Any]:
    """Return the names of the columns of a frame, which need not be text.

    In errors, ``name`` is that of the frame, and ``arrays`` are what can be given instead.
    """
    if isinstance(frame, Mapping):
        return list(frame)
    if isinstance(frame, pl.LazyFrame):
        raise UserError(f"{name}: a LazyFrame has no rows yet; give frame.collect()")
    for attribute in ("column_names", "columns"):  # of Arrow, ``columns`` are not names
        if hasattr(frame, attribute):
            return list(getattr(frame, attribute))
    raise UserError(
        f"{name}: a value of type {type(frame).__name__} has no columns; give a frame, a mapping "
        f"of arrays, or {arrays}"
    )


def _sample(frame: Any, key: Any) -> list[str]:
    """Return the first values of a column as text; none if they are neither ids nor times."""
    for method in ("head", "slice"):
        if hasattr(frame, method):
            frame = frame.head(SAMPLE_ROWS) if method == "head" else frame.slice(0, SAMPLE_ROWS)
            break
    try:
        column = column_of(frame, key, times=True).head(SAMPLE_ROWS)
    except UserError:
        return []
    return column.cast(pl.String).fill_null("").to_list()


def column_of(frame: Any, key: Any, *, times: bool = False) -> pl.Series:
    """Return a column of a frame as polars has it: text, numbers or dates."""
    name = str(key)
    try:
        values = frame[key]
    except Exception as error:  # the library of the frame may raise anything
        raise UserError(f"{_FRAME}: column {name!r} cannot be read ({one_line(error)})") from None
    if np.ma.isMaskedArray(values):
        values = values.tolist()  # with None for masked values
    try:
        # NumPy would make text of a list that holds numbers and text.
        array = np.asarray(values, object if isinstance(values, list | tuple) else None)
    except ValueError:  # lists of several lengths
        array = np.empty((0, 0))
    except Exception as error:  # types of the library that NumPy has not, such as int128
        raise UserError(f"{_FRAME}: column {name!r} cannot be read ({one_line(error)})") from None
    if array.ndim != 1:
        raise _unfit(name, "lists" if array.ndim else type(values).__name__)
    kind = str(getattr(values, "dtype", getattr(values, "type", ""))).lower()
    if array.dtype.kind == "f" and "int" in kind:  # with gaps, for which NumPy takes floats
        listed = values.to_pylist if hasattr(values, "to_pylist") else values.to_list  # of Arrow
        array = np.asarray(listed(), object)
    if array.dtype.kind == "M":
        unit = np.datetime_data(array.dtype)[0]
        known = {"Y": "D", "M": "D", "W": "D", "D": "D", "h": "ms", "m": "ms", "s": "ms"}
        array = array.astype(f"M8[{known.get(unit, unit if unit in ('ms', 'us') else 'ns')}]")
    if array.dtype.kind in "OUT":
        series = _of_objects(name, array.tolist(), times=times)
    elif array.dtype.kind in "iufM":
        # In this machine's byte order: not every version of polars takes the other one.
        series = pl.Series(name, array.astype(array.dtype.newbyteorder("="), copy=False))
    else:
        raise _unfit(name, str(array.dtype))
    check_kind(_FRAME, series, is_time=times)
    return series


def _unfit(name: str, kind: str) -> UserError:
    return UserError(f"{_FRAME}: column {name!r} holds {kind}; text or numbers wanted")


def _of_objects(name: str, values: list[Any], *, times: bool) -> pl.Series:
    """Return Python objects as text or numbers; dates become ISO 8601."""
    kinds = set(map(type, values))
    groups = {kind: _group(kind) for kind in kinds if kind.__name__ not in _NOTHING}
    for group in groups.values():
        if group in ("lists", "bool", "bytes") or (group == "dates" and not times):
            raise _unfit(name, group)
    given = [v if is_given(v) else None for v in values]
    found = {groups[type(v)]: v for v in given if v is not None}
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise UserError(
            f"{_FRAME}: column {name!r} mixes {one} ({first!r:.40}) and {other} ({second!r:.40}); "
            "make them all text, or all numbers"
        )
    if "numbers" in found and not all(issubclass(kind, _WHOLE) for kind in groups):
        try:
            return pl.Series(name, [None if v is None else float(v) for v in given], pl.Float64)
        except (TypeError, OverflowError) as error:  # complex, or too large
            raise _unfit(name, f"a number that is no float ({one_line(error)})") from None
    return text_column([None if v is None else str(v) for v in given]).alias(name)


def is_given(value: Any) -> bool:
    """Return whether a value is given, that is not None, NA, NaT or NaN."""
    return type(value).__name__ not in _NOTHING and value == value  # NaN is not itself


def _group(kind: type) -> str:
    """Return the group of a type of values; other types, such as UUID, are text."""
    if issubclass(kind, date | np.datetime64):
        return "dates"
    if issubclass(kind, numbers.Number | np.number):
        return "bool" if issubclass(kind, bool | np.bool_) else "numbers"
    if issubclass(kind, str | bytes):
        return "text" if issubclass(kind, str) else "bytes"
    return "lists" if hasattr(kind, "__len__") or hasattr(kind, "__iter__") else "text"
