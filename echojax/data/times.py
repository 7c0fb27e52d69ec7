"""Times of events as numbers: integers stay integers, dates become epoch seconds or finer."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import polars as pl

from echojax.errors import UserError

_EARLIEST, _LATEST = 631_152_000, 2_208_988_800  # 1990 and 2040, in epoch seconds
_PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_UNITS = {"ms": 10**3, "us": 10**6, "ns": 10**9}  # of polars
# Day, hour and minute, second, its fraction, zone.
_ISO = (
    r"^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2})(?:[Tt ] *(\d{1,2}:\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?"
    r" *(?:[Zz]|UTC|GMT|([+-]\d\d(?::?\d\d)?))?$"
)
_DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_DAY = 86_400

Error = Callable[[int, str], UserError]


class Times:
    """Takes the times of many blocks of rows; the first value says whether they are dates.

    Args:
        time_format: How dates are written, as strftime has it; None for numbers and ISO 8601.
    """

    def __init__(self, time_format: str | None = None):
        self._format = time_format
        self._dates = time_format is not None
        self._numbers: list[np.ndarray] = []  # of dates: whole epoch seconds
        self._nanos: list[np.ndarray] = []

    def add(self, column: pl.Series, error: Error) -> None:
        """Take a block's times: text, numbers, dates.

        Args:
            column: No row is empty, or it is an error.
            error: Makes the error of a row and what is wrong with it.

        Raises:
            UserError: A time is no finite number and no date, or not of the first one's kind.
        """
        text = column.dtype == pl.String
        if not self._numbers and not self._dates and column.len():
            self._dates = column.dtype.is_temporal() or (text and _is_date(column[0]))
        if column.len() and not text and column.dtype.is_temporal() != self._dates:
            raise error(0, "times are dates in one file and numbers in the other")
        if not self._dates:
            self._numbers.append(_numbers(column, error))
            return
        if text:
            seconds, nanos = _dates(column, self._format)
            wanted = (
                "is not a date like the first one, as 2020-09-17 02:37:21"
                if self._format is None
                else f"does not fit --time-format {self._format!r}"
            )
        else:
            seconds, nanos = _temporal(column)
            wanted = "is no date"
        if seconds.null_count():
            bad = int(seconds.is_null().arg_max() or 0)
            raise error(bad, f"time {_shown(column[bad])} {wanted}")
        self._numbers.append(seconds.to_numpy())
        self._nanos.append(nanos.to_numpy())

    def finish(self, error: Error) -> np.ndarray:
        """Return all times, float64, or int64 where float64 would make some of them equal."""
        if not self._dates:
            if all(block.dtype == np.int64 for block in self._numbers):
                return _exact(np.concatenate(self._numbers))
            return np.concatenate([block.astype(np.float64) for block in self._numbers])
        seconds, nanos = np.concatenate(self._numbers), np.concatenate(self._nanos)
        unit = next(n for n in _PER_SECOND.values() if not (nanos % (10**9 // n)).any())
        if unit == 10**9 and np.abs(seconds).max() > 9_200_000_000:
            far = int(np.abs(seconds).argmax())
            raise error(far, "the date is too far from 1970 for nanoseconds")
        return _exact(seconds * unit + nanos // (10**9 // unit))

    def described(self, times_T: np.ndarray) -> str | None:
        """Return in words what the times are; None for numbers that are no usual times."""
        if self._dates:
            ends = [min(map(np.min, self._numbers)), max(map(np.max, self._numbers))]
            days = not any((block % _DAY).any() for block in self._numbers)
            ties = "; events of one day stay in the order of lines" if days else ""
            return f"dates, {_days(*ends)}{ties}"
        if pattern := _digit_dates(times_T):
            shown = pattern.replace("%Y", "YYYY").replace("%M", "MM").replace("%S", "SS")
            for letter in "mdH":
                shown = shown.replace(f"%{letter}", letter.upper() * 2)
            return f"read as numbers that look like dates ({shown}), whose order is the same"
        if unit := _epoch_unit(times_T):
            ends = [float(end) / _PER_SECOND[unit] for end in (times_T.min(), times_T.max())]
            return f"epoch {unit}, {_days(*ends)}"
        return None


def plausible(values: list[str]) -> bool:
    """Return whether texts are times: dates, or epoch times between 1990 and 2040, nearly all."""
    column = pl.Series(values, dtype=pl.String)
    seconds, _ = _dates(column, None)
    if 10 * seconds.null_count() <= len(values):
        return True
    numbers = column.cast(pl.Float64, strict=False)
    if 10 * (numbers.null_count() + int(numbers.is_nan().sum())) > len(values):
        return False
    finite = numbers.filter(numbers.is_finite()).to_numpy()
    return finite.size > 0 and (_digit_dates(finite) or _epoch_unit(finite)) is not None


def _is_date(text: str) -> bool:
    return not _dates(pl.Series([text]), None)[0].null_count()


def _numbers(column: pl.Series, error: Error) -> np.ndarray:
    if not column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        if not whole.null_count():
            return whole.to_numpy()
    numbers = column.cast(pl.Float64, strict=False).fill_null(float("nan"))
    finite = numbers.is_finite()
    if not finite.all():
        bad = int(finite.arg_min() or 0)
        problem = f"time {_shown(column[bad])} is not a finite number or an ISO 8601 date"
        raise error(bad, f"{problem} (other dates are read by --time-format)")
    return numbers.to_numpy()


def _dates(column: pl.Series, time_format: str | None) -> tuple[pl.Series, pl.Series]:
    """Return epoch seconds and nanoseconds after them, int64; seconds are null where no date is."""
    if time_format is not None:
        try:
            return _temporal(column.str.to_datetime(time_format, time_unit="us", strict=False))
        except pl.exceptions.PolarsError:
            return pl.Series([None] * column.len(), dtype=pl.Int64), column
    parts = column.str.extract_groups(_ISO).struct.unnest()
    parts.columns = ["day", "minute", "second", "fraction", "zone"]
    moments = parts.select(
        pl.concat_str(
            pl.col("day").str.replace_all("[/.]", "-"),
            pl.col("minute").fill_null("00:00"),
            pl.col("second").fill_null("00"),
            separator=":",
        ).str.to_datetime("%Y-%m-%d:%H:%M:%S", time_unit="us", strict=False)
    ).to_series()
    seconds, nanos = _temporal(moments)
    if parts["zone"].null_count() < column.len():
        digits = parts["zone"].str.replace(":", "", literal=True)
        hours = digits.str.slice(1, 2).cast(pl.Int64).fill_null(0)
        minutes = digits.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0)
        sign = 1 - 2 * digits.str.starts_with("-").fill_null(False).cast(pl.Int64)
        seconds -= sign * (hours * 3600 + minutes * 60)
    if parts["fraction"].null_count() < column.len():
        nanos = parts["fraction"].str.pad_end(9, "0").cast(pl.Int64).fill_null(0)
    return seconds, nanos


def _temporal(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return epoch seconds and nanoseconds after them of dates, or of dates with times, of day."""
    if column.dtype == pl.Date:
        seconds = column.to_physical().cast(pl.Int64) * _DAY
        return seconds, seconds.fill_null(0) * 0
    unit = _UNITS[column.dtype.time_unit]  # type: ignore[attr-defined]
    ticks = column.to_physical()
    return ticks // unit, ticks.fill_null(0) % unit * (10**9 // unit)


def _exact(whole: np.ndarray) -> np.ndarray:
    """Return integers as float64 where all of them are exact in it."""
    largest = max(abs(int(whole.min())), abs(int(whole.max())))
    if largest > 1 << 62:
        return whole
    floats = whole.astype(np.float64)
    fits = largest <= 1 << 53 or np.array_equal(floats.astype(np.int64), whole)
    return floats if fits else whole


def _epoch_unit(times: np.ndarray) -> str | None:
    """Return the unit in which nine in ten times lie between 1990 and 2040."""
    for unit, scale in _PER_SECOND.items():
        inside = (times >= _EARLIEST * scale) & (times < _LATEST * scale)
        if 10 * int(inside.sum()) >= 9 * times.size:
            return unit
    return None


def _digit_dates(times: np.ndarray) -> str | None:
    """Return the pattern of dates that are written as one number, such as 20200917."""
    for digits, pattern in _DIGITS.items():
        low, high = (year * 10 ** (digits - 4) for year in (1990, 2040))
        if not ((times >= low) & (times < high)).all():
            continue
        some = pl.Series(times[:1000].astype(np.int64)).cast(pl.String)
        if not some.str.to_datetime(pattern, time_unit="us", strict=False).null_count():
            return pattern
    return None


def _days(first: float, last: float) -> str:
    try:
        one, two = (datetime.fromtimestamp(end, UTC).date() for end in (first, last))
    except (ValueError, OverflowError, OSError):
        return "of years beyond 1 to 9999"
    return f"{one} to {two} (UTC)"


def _shown(value: object) -> str:
    return repr(value[:40] if isinstance(value, str) else value)
