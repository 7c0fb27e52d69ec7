from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojax.data.rows import Place
from echojax.data.times import Times, plausible
from echojax.errors import UserError


def parse(*blocks, time_format=None):
    columns = [b if isinstance(b, pl.Series) else pl.Series(b, dtype=pl.String) for b in blocks]

    place, times = Place("x", range(100), "row"), Times(time_format)
    for column in columns:
        times.add(column, place)
    return times.joined(place.error)


@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**62), 2**62), min_size=1
    )
)
def test_numbers_round_trip(numbers):
    parsed, _ = parse([str(number) for number in numbers])
    whole = all(isinstance(number, int) for number in numbers)
    expected = np.array(numbers, None if whole else np.float64)
    np.testing.assert_array_equal(parsed, expected)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_whole_numbers_are_never_rounded(numbers):
    parsed, _ = parse([str(number) for number in numbers])
    assert [int(number) for number in parsed] == numbers
    small = all(float(number) == number for number in numbers) and max(map(abs, numbers)) <= 2**53
    assert parsed.dtype == np.float64 or not small


MOMENT = datetime(2020, 9, 17, 2, 37, 21, tzinfo=timezone.utc)  # noqa: UP017
EPOCH = MOMENT.timestamp()
DRESSES = {
    "2020-09-17 02:37:21": 0,
    "2020-09-17T02:37:21": 0,
    "2020-09-17t02:37:21z": 0,
    "2020-09-17T02:37:21Z": 0,
    "2020/09/17 02:37:21": 0,
    "2020-9-17 2:37:21": 0,
    "2020-09-17 02:37:21 UTC": 0,
    "2020-09-17 04:37:21+02:00": 0,
    "2020-09-17T04:37:21+02": 0,
    "2020-09-16 22:07:21 -0430": 0,
    "2020-09-17 02": -21 - 37 * 60,
    "2020-09-17 02:37": -21,
    "2020-09-17 02:37Z": -21,
    "2020-09-17": -21 - 37 * 60 - 2 * 3600,
}


@pytest.mark.parametrize("text", DRESSES)
def test_dates_become_epoch_seconds(text):
    parsed, described = parse([text, "2020-09-17 02:37:22Z"])
    assert parsed.tolist() == [EPOCH + DRESSES[text], EPOCH + 1]
    assert described.startswith("dates, 2020-09-1")


@given(st.lists(st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)), min_size=1))
def test_dates_with_fractions_keep_their_order(moments):
    parsed, _ = parse([moment.isoformat(" ") for moment in moments])
    order = sorted(range(len(moments)), key=lambda i: moments[i])
    assert np.argsort(parsed, kind="stable").tolist() == order
    assert np.unique(parsed).size == len(set(moments))


def test_zones_are_given_by_all_dates_or_by_none():
    zoned = "2020-09-17T04:37:21+02:00"
    for blocks in ([zoned, "2020-09-17 02:37:22"],), ([zoned], [zoned, "2020-09-17"]):
        with pytest.raises(UserError, match=r"row 1: time '2020-09-17.*' has no time zone, and"):
            parse(*blocks)
    with pytest.raises(UserError, match="row 0: time '2020-09-17' has no time zone"):
        parse(["2020-09-17"], [zoned])
    for text in ("2020-09-17 02:37:21", "2020-09-17T02:37:21Z", "2020-09-17T02:37:21+00:00"):
        assert parse(["2020-09-17 02:37:21", text])[0].tolist() == [EPOCH, EPOCH]
    assert parse([zoned, "2020-09-17T02:37:21Z"])[0].tolist() == [EPOCH, EPOCH]


def test_times_in_several_units_name_the_row():
    stamps = [str(int(EPOCH) + n) for n in range(20)]
    for other, unit in ((10**3, "milliseconds"), (10**9, "nanoseconds")):
        mixed = [*stamps, str(int(EPOCH) * other)]
        with pytest.raises(
            UserError, match=f"row 20: time .* is in {unit} where others are in sec"
        ):
            parse(mixed)
        with pytest.raises(UserError, match=f"row 1: time .* is in seconds where .* in {unit}"):
            parse([*[str(int(EPOCH) * other)] * 1, stamps[0], *[str(int(EPOCH) * other)] * 9])
    described = parse([*stamps, "0", "-1"])[1]
    assert described.endswith("; warning: 2 of 22 are not between 1990 and 2040, such as 0")
    described = parse([*stamps, *["0"] * 9])[1]  # where times are not known
    assert described.startswith("epoch seconds, 1970-01-01 to 2020-09-17 (UTC); warning: 9 of 29")


def test_days_without_hours_are_said():
    for texts in (["2020-09-17", "2020-09-16"], ["2020-09-17 00:00"]):
        assert parse(texts)[1].endswith("(UTC); events of one day stay in the order of lines")


def test_nanoseconds_in_dates_keep_their_order():
    parsed, _ = parse([f"2020-09-17T02:37:21.0000000{n:02}Z" for n in (12, 11, 10)])
    assert parsed.dtype == np.int64
    assert np.argsort(parsed).tolist() == [2, 1, 0]
    with pytest.raises(UserError, match="row 1: the date is too far from 1970 for nanoseconds"):
        parse(["2020-09-17T02:37:21.000000001", "3020-09-17T02:37:21"])


NO_NUMBERS = ["abc", "nan", "NaN", "inf", "-inf", "1e999", "12x", "2019_10", "١٢", "", "1,5"]
NO_DATES = ["2020-13-01", "2020-02-30", "noon", "17.09.2020", "5", "", "20"]
MISSING = ["", "NA", "\\N", "NaT", "nan", "null"]
TOO_LONG = [str(10**25)], ["9" * 400], ["5", str(-(2**63) - 1)]
REFUSED = {
    "row 2: time .* is not a finite number": [
        ["1", "2.5", bad, "worse"] for bad in [*NO_NUMBERS, "2020-02-30", "2020-09-17"]
    ],
    "row 1: time nan is not a finite number": [pl.Series([2.0, float("nan")])],
    "row 1: time .* is not an ISO 8601 date, as the first is": [
        ["2020-09-17", bad] for bad in NO_DATES
    ],
    "row 1: .* but missing; fill it in, or delete such": [
        [first, word] for word in MISSING for first in ("2020-09-17", "1600310241")
    ],
    "row 0: time 1[67]0\\d2020 looks like a date with its year last.* by --time-format '%d%m%Y'": [
        ["17092020", "16102020"],
        pl.Series([16092020, 1102020]),
    ],
    "by --time-format '%m%d%Y'": [["9172020", "10162020"]],
    "is a whole number beyond 64 bits": [*TOO_LONG, pl.Series([2**64 - 1], dtype=pl.UInt64)],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_time_names_the_row(message):
    for column in REFUSED[message]:
        with pytest.raises(UserError, match=message):
            parse(column)


def test_other_dates_by_their_format():
    texts = ["17.09.2020 02:37", "16.09.2020 02:37"]
    parsed, _ = parse(texts, time_format="%d.%m.%Y %H:%M")
    assert parsed.tolist() == [EPOCH - 21, EPOCH - 21 - 86400]
    assert parse(["09 17, 2020"], time_format="%m %d, %Y")[0] == EPOCH // 86400 * 86400
    zoned, _ = parse(["17.09.2020 04:37 +0200"], time_format="%d.%m.%Y %H:%M %z")
    assert zoned == EPOCH - 21
    for wrong in ("%Q", "%d.%m.%Y", ""):
        with pytest.raises(UserError, match=r"row 0: time '17.09.2020 02:37' does not fit"):
            parse(texts, time_format=wrong)


@pytest.mark.parametrize("unit", ["seconds", "milliseconds", "microseconds", "nanoseconds"])
def test_the_unit_of_epoch_times_is_told(unit):
    scale = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
    stamps = [str(int(EPOCH) * scale[unit] + n) for n in range(9)]
    assert parse(stamps)[1] == f"epoch {unit}, 2020-09-17 to 2020-09-17 (UTC)"
    assert plausible(stamps)


def test_numbers_that_are_no_usual_times():
    assert parse(["5", "6"])[1] is None
    assert "look like dates (YYYYMMDD)" in parse(["20200917", "20200918"])[1]
    assert "look like dates (YYYYMMDDHHMMSS)" in parse(["20200917023721"])[1]
    assert "look like dates (YYYYMMDDHH)" in parse(["2020091702", "2020091723"])[1]
    assert "look like" not in parse(["2020091702", "2020091724"])[1]
    for values in (["5", "6"], ["214530007"], ["abc"], [""], ["20201399"], ["nan", "inf"]):
        assert not plausible(values)


def test_times_that_a_program_has_rounded_are_said():
    for texts in (["1.60031E+12", "1.60032E+12"], ["1.60031e+09", "2e9"]):
        assert f"warning: they are rounded, such as {texts[0]}" in parse(texts)[1]
    for texts in (["1.600310241e9"], ["1.600310241000000000e+09"], ["1600310241", "1.6e9"]):
        assert "rounded" not in parse(texts)[1]
    assert "rounded, such as 1.60031e+09" in parse(pl.Series([1600310241], dtype=pl.Float32))[1]
    assert parse(pl.Series([17], dtype=pl.Float32))[1] is None


def test_dates_and_numbers_as_columns_hold_them():
    moments = [MOMENT.replace(tzinfo=None) + timedelta(milliseconds=n) for n in (5, 0)]
    for unit in ("ms", "us", "ns"):
        parsed, _ = parse(pl.Series(moments, dtype=pl.Datetime(unit)))
        assert parsed.tolist() == [EPOCH * 1000 + 5, EPOCH * 1000]
    assert parse(pl.Series([MOMENT.date()]))[0] == EPOCH // 86400 * 86400
    assert parse(pl.Series([2, 1], dtype=pl.UInt8))[0].tolist() == [2, 1]
    with pytest.raises(UserError, match="row 0: times are dates in one file and numbers in the"):
        parse(pl.Series([2]), pl.Series([MOMENT.date()]))
