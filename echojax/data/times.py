"""Times of events as numbers; dates become epoch seconds, or a finer unit if they need one."""

from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import polars as pl

from echojax.data.rows import MISSING, Error, Place, check_kind, decimal_text, is_text, stripped
from echojax.errors import UserError

_EARLIEST, _LATEST = 631_152_000, 2_208_988_800  # 1990 and 2040, in epoch seconds
_PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_UNITS = {"ms": 10**3, "us": 10**6, "ns": 10**9}  # of polars
_ISO = (
    r"^(?P<day>\d{4}[-/.]\d{1,2}[-/.]\d{1,2})"
    r"(?:[Tt ] *(?P<hour>\d{1,2})(?::(?P<minute>\d\d)"
    r"(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)?)?"
    r" *(?P<zone>[Zz]|UTC|GMT|[+-]\d\d(?::?\d\d)?)?$"
)
_DIGITS = {  # by the number of digits, dates that are written as one number
    8: ("%Y%m%d", "YYYYMMDD"),
    10: ("%Y%m%d%H%M", "YYYYMMDDHH"),  # with zeros as minutes, without which no hours are read
    12: ("%Y%m%d%H%M", "YYYYMMDDHHMM"),
    14: ("%Y%m%d%H%M%S", "YYYYMMDDHHMMSS"),
}
_OTHER_DATES = (  # the beginnings of dates that are not ISO 8601
    r"(?i)^(?:[a-z]{3,9},? +)?(?:"
    r"\d{1,2}[/-]\d{1,2}[/-]\d\d(?:\d\d)?|\d{1,2}\.\d{1,2}\.\d{4}"
    r"|(?:19|20)\d\d[-/.:年]\d{1,2}[-/.:月]\d|(?:19|20)\d{6}T"
    r"|(?:\d{1,2}[ /-])?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?[ /-]\d)"
)
_ROUNDED = r"^[+-]?\d(?:\.(\d*))?[eE]\+?(\d+)$"  # digits after the point, and the exponent
_DAY = 86_400


class Times:
    """Collects times block by block, as numbers."""

    def __init__(self, time_format: str | None = None):
        self.time_format = time_format  # as for strftime; ``None`` is ISO 8601
        self._dates = False
        self._numbers: list[np.ndarray] = []
        self._nanos: list[np.ndarray] = []  # of dates, the nanoseconds after whole epoch seconds
        self._zoned = False  # whether some date has a time zone other than UTC
        self._without_zone: UserError | None = None  # about the first date that has none
        self._rounded: str | None = None  # a number that a program has rounded

    def add(self, column: pl.Series, place: Place) -> None:
        """Add the times of a block; all must be of the same kind, numbers or dates."""
        check_kind(place.file, column, is_time=True)
        if column.null_count():
            raise place.error(int(column.is_null().arg_max() or 0), "the time is missing")
        if column.dtype.is_decimal():
            column = decimal_text(column)
        if text := is_text(column):
            column = stripped(column)
        if not self._numbers:
            self._dates = self.time_format is not None or column.dtype.is_temporal()
            if text and not self._dates:
                self._dates = not _dates(column.head(1), None).seconds.null_count()
        if not text and column.dtype.is_temporal() != self._dates:
            if self.time_format is not None:
                reads = "and --time-format reads text; leave it out, or make the column text"
                raise place.error(0, f"time {column[0]} is a number, {reads}")
            raise place.error(0, "times are dates in one file and numbers in the other")
        if self._dates:
            dates = _dates(column, self.time_format)
            found = dates.seconds
            self._nanos.append(dates.nanos.to_numpy())
            self._check_zones(column, dates, place)
        else:
            found = _numbers(column)
            self._rounded = self._rounded or _rounded(column)
        if found.null_count():
            bad = int(found.is_null().arg_max() or 0)
            value = column[bad][:40] if text else column[bad]
            raise place.error(bad, f"time {value!r} {self._wanted(str(value))}")
        self._numbers.append(found.to_numpy())

    def _wanted(self, value: str) -> str:
        advice = " (other dates are read by --time-format)"
        if value in MISSING:
            advice = ", but missing; fill it in, or delete such rows"
        if not self._dates:
            if value.lstrip("+-").isdecimal() and value.isascii():
                return "is a whole number beyond 64 bits; write times in another unit"
            return f"is not a finite number or an ISO 8601 date{advice}"
        if self.time_format is not None:
            return f"does not fit --time-format {self.time_format!r}"
        return f"is not an ISO 8601 date, as the first is{advice}"

    def _check_zones(self, column: pl.Series, dates: "_Dates", place: Place) -> None:
        """Raise ``UserError`` if only some dates have a zone, and it is not UTC."""
        self._zoned |= dates.zoned
        row = dates.without_zone
        if row is not None and self._without_zone is None:
            problem = (
                f"time {column[row]!r:.40} has no time zone, and others have one that is not UTC; "
                "write all with their zones"
            )
            self._without_zone = place.error(row, problem)
        if self._zoned and self._without_zone is not None:
            raise self._without_zone

    def joined(self, error: Error) -> tuple[np.ndarray, str | None]:
        """Return the times of all blocks, and a description (``None`` if they look like no times).

        The times are float64, or int64 if float64 is not exact.
        """
        if not self._dates:
            whole = all(block.dtype == np.int64 for block in self._numbers)
            times_T = np.concatenate(self._numbers, dtype=None if whole else np.float64)
            times_T = _exact(times_T) if whole else times_T
            described = _described(times_T, error)
            if described is not None and self._rounded is not None:
                described += (
                    f"; warning: they are rounded, such as {self._rounded}, so that several may "
                    "have become one; export them as whole numbers"
                )
            return times_T, described
        seconds_T, nanos_T = np.concatenate(self._numbers), np.concatenate(self._nanos)
        unit = next(n for n in _PER_SECOND.values() if not (nanos_T % (10**9 // n)).any())
        if unit == 10**9 and np.abs(seconds_T).max() > 9_200_000_000:
            raise error(
                int(np.argmax(np.abs(seconds_T))), "the date is too far from 1970 for nanoseconds"
            )
        ties = "" if (seconds_T % _DAY).any() else "; events of one day stay in the order of lines"
        times_T = _exact(seconds_T * unit + nanos_T // (10**9 // unit))
        return times_T, f"dates, {_days(seconds_T.min(), seconds_T.max())}{ties}"


def plausible(values: list[str]) -> bool:
    """Return whether nearly all values are dates, or epoch times between 1990 and 2040."""
    column = pl.Series(values, dtype=pl.String)
    if 10 * _dates(column, None).seconds.null_count() <= len(values):
        return True
    numbers = column.cast(pl.Float64, strict=False)
    if 10 * (numbers.null_count() + int(numbers.is_nan().sum())) > len(values):
        return False
    finite = numbers.filter(numbers.is_finite()).to_numpy()
    return finite.size > 0 and bool(_date_digits(finite) or _epoch_unit(finite))


def dated(values: list[str]) -> bool:
    """Return whether nearly all values begin like dates that are not ISO 8601."""
    found = pl.Series(values, dtype=pl.String).str.contains(_OTHER_DATES)
    return 10 * int(found.sum()) >= 9 * len(values)


def _rounded(column: pl.Series) -> str | None:
    """Return one of the numbers if most lack digits before the point, as ``1.60031E+12``."""
    if column.dtype.is_float() and column.dtype != pl.Float64:
        most = column.abs().max()
        exact = 2 << np.finfo(column.head(0).to_numpy().dtype).nmant
        return f"{most:g}" if isinstance(most, float) and most > exact else None
    if column.dtype != pl.String or not column.str.contains("[eE]").any():
        return None
    parts = column.str.extract_groups(_ROUNDED).struct.unnest().to_series
    digits = parts(0).fill_null("").str.len_bytes()
    lacking = (digits < parts(1).cast(pl.Int64, strict=False)).fill_null(False)
    return column.filter(lacking)[0] if 2 * lacking.sum() > column.len() else None


def _numbers(column: pl.Series) -> pl.Series:
    """Return int64, or float64 unless all are integers; what is no finite number is null.

    Whole numbers that do not fit into int64 are null, too, since float64 would make several equal.
    """
    too_long = pl.repeat(False, column.len(), eager=True)
    if not column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        if not whole.null_count():
            return whole
        too_long = whole.is_null() & column.cast(pl.String).str.contains(r"^[+-]?\d+$")
    numbers = column.cast(pl.Float64, strict=False)
    finite = numbers.is_finite() & ~too_long
    return numbers if finite.all() else numbers.set(~finite.fill_null(True), None)


class _Dates(NamedTuple):
    """Dates of a block."""

    seconds: pl.Series  # epoch seconds, int64; null where there is no date
    nanos: pl.Series  # the nanoseconds after them, int64
    zoned: bool = False  # whether some have a time zone other than UTC
    without_zone: int | None = None  # the first row whose date has no zone


def _dates(column: pl.Series, time_format: str | None) -> _Dates:
    if column.dtype != pl.String:
        return _temporal(column)
    if time_format is not None:
        try:
            return _temporal(column.str.to_datetime(time_format, time_unit="us", strict=False))
        except pl.exceptions.PolarsError:
            return _Dates(pl.Series([None] * column.len(), dtype=pl.Int64), column)
    parts = column.str.extract_groups(_ISO).struct.unnest()
    moments = parts.select(
        pl.concat_str(
            pl.col("day").str.replace_all("[/.]", "-"),
            pl.col("hour", "minute", "second").fill_null("00"),
            separator=":",
        ).str.to_datetime("%Y-%m-%d:%H:%M:%S", time_unit="us", strict=False)
    ).to_series()
    seconds, nanos, *_ = _temporal(moments)
    zoned, without_zone = False, parts["zone"].is_null() & seconds.is_not_null()
    if parts["zone"].null_count() < column.len():
        digits = parts["zone"].str.replace(":", "", literal=True)
        hours = digits.str.slice(1, 2).cast(pl.Int64, strict=False).fill_null(0)
        minutes = digits.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0)
        sign = 1 - 2 * digits.str.starts_with("-").fill_null(False).cast(pl.Int64)
        ahead = sign * (hours * 3600 + minutes * 60)
        zoned = bool((ahead != 0).any())
        seconds -= ahead
    if parts["fraction"].null_count() < column.len():
        nanos = parts["fraction"].str.pad_end(9, "0").cast(pl.Int64).fill_null(0)
    first = int(without_zone.arg_max() or 0) if without_zone.any() else None
    return _Dates(seconds, nanos, zoned, first)


def _temporal(column: pl.Series) -> _Dates:
    if column.dtype == pl.Date:
        seconds = column.to_physical().cast(pl.Int64) * _DAY
        return _Dates(seconds, seconds.fill_null(0) * 0)
    unit = _UNITS[column.dtype.time_unit]  # type: ignore[attr-defined]
    ticks = column.to_physical()
    return _Dates(ticks // unit, ticks.fill_null(0) % unit * (10**9 // unit))


def _exact(whole: np.ndarray) -> np.ndarray:
    """Return integers as float64 if that is exact for all of them, otherwise as they are."""
    largest = max(abs(int(whole.min())), abs(int(whole.max())))
    if largest > 1 << 62:
        return whole
    floats = whole.astype(np.float64)
    fits = largest <= 1 << 53 or np.array_equal(floats.astype(np.int64), whole)
    return floats if fits else whole


def _described(times: np.ndarray, error: Error) -> str | None:
    """Describe numbers.

    Raise ``UserError`` if they are epoch times in several units, or dates in another order.
    """
    if (years_last := _years_last(times)) is not None:
        raise error(
            0,
            f"time {times[0]:.15g} looks like a date with its year last, and such numbers are not "
            f"in the order of time; read them by --time-format '{years_last}'",
        )
    if shown := _date_digits(times):
        return f"read as numbers that look like dates ({shown}), whose order is the same"
    unit = _epoch_unit(times, tenths=5)
    outside = ~_inside(times, unit) if unit else np.ones(times.size, bool)
    if not outside.any():
        return f"epoch {unit}, {span(times)}"
    units = {name: found for name in _PER_SECOND if (found := _inside(times, name)).any()}
    if len(units) > 1 and 10 * sum(int(found.sum()) for found in units.values()) >= 9 * times.size:
        most, *_, fewest = sorted(units, key=lambda name: -units[name].sum())
        row = int(np.argmax(units[fewest]))
        problem = f"time {times[row]:.15g} is in {fewest} where others are in {most}"
        raise error(row, f"{problem}; write all in one unit")
    if unit is None:
        return None
    some = f"{outside.sum():,} of {times.size:,} are not between 1990 and 2040"
    example = f"{times[int(np.argmax(outside))]:.15g}"
    return f"epoch {unit}, {span(times)}; warning: {some}, such as {example}"


def _date_digits(times: np.ndarray) -> str | None:
    """Return how numbers are written that look like dates."""
    for digits, (pattern, shown) in _DIGITS.items():
        low, high = (year * 10 ** (digits - 4) for year in (1990, 2040))
        if ((times >= low) & (times < high)).all():
            some = pl.Series(times[:1000].astype(np.int64)).cast(pl.String)
            some = some.str.pad_end(12 if digits == 10 else digits, "0")
            if not some.str.to_datetime(pattern, time_unit="us", strict=False).null_count():
                return shown
    return None


def _years_last(times: np.ndarray) -> str | None:
    """Return the format of numbers that look like dates such as DDMMYYYY."""
    if not ((times > 1_000_000) & (times < 32_000_000) & (times % 1 == 0)).all():
        return None
    ahead, year = np.divmod(times, 10_000)
    one, two = np.divmod(ahead, 100)
    if ((year < 1990) | (year >= 2040) | (one < 1) | (two < 1) | (one > 31) | (two > 31)).any():
        return None
    if (two <= 12).all():
        return "%d%m%Y"
    return "%m%d%Y" if (one <= 12).all() else None


def _epoch_unit(times: np.ndarray, tenths: int = 9) -> str | None:
    """Return the unit in which at least so many tenths of numbers are epoch times."""
    least = tenths * times.size
    enough = (unit for unit in _PER_SECOND if 10 * int(_inside(times, unit).sum()) >= least)
    return next(enough, None)


def _inside(times: np.ndarray, unit: str) -> np.ndarray:
    """Return which numbers are epoch times between 1990 and 2040."""
    scale = _PER_SECOND[unit]
    return (times >= _EARLIEST * scale) & (times < _LATEST * scale)


def span(times: np.ndarray) -> str:
    """Return the first and the last time as text, as days if they look like epoch times."""
    scale = _PER_SECOND.get(_epoch_unit(times, tenths=5) or "")
    if scale is None:
        return f"{times.min():,.15g} to {times.max():,.15g}"
    return _days(times.min() / scale, times.max() / scale)


def _days(first: float, last: float) -> str:
    try:
        one, two = (datetime.fromtimestamp(float(end), UTC).date() for end in (first, last))
    except (ValueError, OverflowError, OSError):
        return "of years beyond 1 to 9999"
    return f"{one} to {two} (UTC)"
