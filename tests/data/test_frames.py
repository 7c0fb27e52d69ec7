"""Frames of any library: the same data set as from a file, and one sentence about what is none."""

import re
import uuid
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojax.data import Dataset, load_dataset
from echojax.errors import UserError

ROWS = [(u, (u * 7 + n * 3) % 5, 1_600_000_000 + 10 * u - n) for u in range(6) for n in range(5)]
USERS, ITEMS, SECONDS = (list(column) for column in zip(*ROWS, strict=True))
WHEN = np.array(SECONDS, "M8[s]")
PYTHON = [datetime.fromtimestamp(second, UTC) for second in SECONDS]
FRAME = pl.DataFrame({"user_id": USERS, "item_id": ITEMS, "when": PYTHON, "note": "x"})
NA = type("NAType", (), {"__ne__": lambda self, other: pytest.fail("pandas.NA has no truth")})()


class Columns:
    """A frame as the libraries have them: names under one attribute, columns by name."""

    def __init__(self, attribute, **columns):
        setattr(self, attribute, list(columns))
        if attribute == "column_names":  # as Arrow's
            self.columns = list(columns.values())
        self.of = columns

    def __getitem__(self, name):
        return self.of[name]


def mapping(**columns):
    return {"user_id": USERS, "item_id": ITEMS, "when": WHEN} | columns


BERLIN = timezone(timedelta(hours=2))
DRESSES = {
    "polars": FRAME,
    "polars categories": FRAME.with_columns(pl.col("item_id").cast(pl.String).cast(pl.Categorical)),
    "a zone of polars": FRAME.with_columns(pl.col("when").dt.convert_time_zone("Europe/Berlin")),
    "pandas": Columns("columns", **mapping()),
    "Arrow": Columns("column_names", **mapping()),
    "a mapping": mapping(),
    "three arrays": (np.array(USERS), np.array(ITEMS), WHEN),
    "three lists": [USERS, ITEMS, SECONDS],
    "numbers of other sizes": mapping(user_id=np.array(USERS, ">u2"), item_id=np.float32(ITEMS)),
    "floats of gaps": mapping(user_id=np.array(USERS, float)),
    "nullable integers": mapping(user_id=np.array(USERS, object)),
    "text": mapping(user_id=np.array(USERS).astype(str), when=WHEN.astype(str)),
    "text as objects": mapping(item_id=np.array(list(map(str, ITEMS)), object)),
    "Python's dates": mapping(when=PYTHON),
    "dates with zones": mapping(when=[moment.astimezone(BERLIN) for moment in PYTHON]),
    "dates of other units": mapping(when=WHEN.astype("M8[ns]")),
    "dates as objects": mapping(when=list(WHEN)),
    "masked, without gaps": mapping(user_id=np.ma.array(USERS)),
}


@pytest.mark.parametrize("dress", DRESSES)
def test_the_same_data_set_as_from_a_file(dress, write):
    path = write("log.csv", FRAME.write_csv(datetime_format="%Y-%m-%dT%H:%M:%SZ"))
    expected = load_dataset(data_path=path).fingerprint
    found = Dataset.from_frame(DRESSES[dress], name="mine")
    assert found.name == "mine"
    for part in ("sha256", "raw", "time", "k_core"):
        assert found.fingerprint[part] == expected[part]


text = st.text(st.characters(exclude_characters="\t\n\r\0"), min_size=1, max_size=4)
ids = st.integers(-(2**70), 2**70) | text | st.uuids()


@given(st.lists(st.tuples(st.integers(0, 3), ids), min_size=1, max_size=9))
def test_ids_are_what_str_gives(rows):
    kinds = {isinstance(item, str | uuid.UUID) for _, item in rows}
    users, items = (list(column) for column in zip(*rows, strict=True))
    if len(kinds) == 1:
        try:
            found = Dataset.from_frame((users, items), k_core=0, missing_ids="keep")
        except UserError as error:  # empty without its blanks, or fewer than two
            assert re.search("empty item id|two users and two items", str(error))  # noqa: PT017
        else:
            assert found.item_ids[1:].tolist() == list(
                dict.fromkeys(str(item).strip(" \t\r") for item in items)
            )
    else:
        with pytest.raises(UserError, match=r"column 'item' mixes (text|numbers) \("):
            Dataset.from_frame((users, items), k_core=0)


GAPS = {
    "None": [None, *USERS[1:]],
    "NaN": np.array([np.nan, *USERS[1:]]),
    "NaN among text": np.array([float("nan"), *map(str, USERS[1:])], object),
    "pandas.NA": np.array([NA, *USERS[1:]], object),
    "masked": np.ma.array(USERS, mask=[1] + 29 * [0]),
    "polars": pl.Series([None, *USERS[1:]]),
}


@pytest.mark.parametrize("gap", GAPS)
def test_missing_users_are_refused_or_left_out(gap):
    frame = mapping(user_id=GAPS[gap])
    with pytest.raises(UserError) as raised:
        Dataset.from_frame(frame)
    assert str(raised.value) == (
        "frame, position 0: empty user id; 1 of 30 rows have no user id (empty); leave them out "
        "with --missing-ids drop"
    )
    dropped = Dataset.from_frame(frame, missing_ids="drop", k_core=4)
    whole = Dataset.from_frame({name: column[1:] for name, column in mapping().items()}, k_core=4)
    assert dropped.fingerprint["sha256"] == whole.fingerprint["sha256"]


def test_large_integers_beside_gaps_stay_exact():
    pd = pytest.importorskip("pandas")
    large = [None, *(2**60 + user for user in USERS[1:])]
    for column in (pl.Series(large), pd.Series(large, dtype="Int64")):
        found = Dataset.from_frame(mapping(user_id=column), missing_ids="drop", k_core=4)
        assert found.user_ids[0] == str(2**60)
        assert found.num_users == 6


def test_users_without_events_as_a_left_join_has_them():
    users = pl.DataFrame({"user_id": [*range(6), 99]})
    for when in (pl.col("when"), pl.col("when").dt.epoch("s"), pl.col("when").cast(pl.String)):
        frame = FRAME.select("user_id", "item_id", when=when)
        joined = users.join(frame, on="user_id", how="left", maintain_order="right_left")
        found = Dataset.from_frame(joined, missing_ids="drop")
        assert found.fingerprint["sha256"] == Dataset.from_frame(frame).fingerprint["sha256"]


class Unreadable:
    """A column of a type that NumPy does not have."""

    def __array__(self, *_, **__):
        raise RuntimeError("128 bits")


TWICE = Columns("columns", **mapping())
TWICE.columns.append("user_id")
BAD = {
    "unknown column": (FRAME, {"user": "usr_id"}, "did you mean 'user_id'? the columns are user_"),
    "no item column": (FRAME.drop("item_id"), {}, "no item column among user_id, when, note; name"),
    "mixed": (mapping(user_id=[1, "a"] * 15), {}, "'user_id' mixes numbers (1) and text ('a'); ma"),
    "no rows": (FRAME.head(0), {}, "frame: has no interactions"),
    "two of one name": (TWICE, {}, "two columns are named 'user_id'; rename one of them"),
    "no date": (
        mapping(when=["2020-09-17"] * 29 + ["noon"]),
        {"time": "when"},
        "frame, position 29: time 'noon' is not an ISO 8601 date, as the first is",
    ),
    "no dates": (mapping(when=["?"] * 30), {"time": "when"}, "frame, position 0: time '?' is not"),
    "lists": (mapping(item_id=np.array([*ITEMS[1:], [1]], object)), {}, "'item_id' holds lists; t"),
    "lists of one length": (mapping(item_id=[[1, 2]] * 30), {}, "'item_id' holds lists; text or"),
    "lists of other lengths": (mapping(item_id=[[1], []] * 15), {}, "'item_id' holds lists; text"),
    "truth": (mapping(user_id=[True] * 30), {}, "'user_id' holds bool; text or numbers wanted"),
    "bytes": (mapping(user_id=[b"a"] * 30), {}, "'user_id' holds bytes; text or numbers wanted"),
    "dates as users": (mapping(user_id=PYTHON), {}, "'user_id' holds dates; text or numbers want"),
    "spans": (mapping(when=WHEN - WHEN[0]), {"time": "when"}, "'when' holds timedelta64[s]; text"),
    "a number": (mapping(user_id=1), {}, "'user_id' holds int; text or numbers wanted"),
    "odd values": (mapping(user_id=Unreadable()), {}, "column 'user_id' cannot be read (128 bits)"),
    "complex": (mapping(user_id=[1j] * 30), {}, "column 'user_id' holds a number that is no float"),
    "too large": (mapping(user_id=[0.5, 10**400] * 15), {}, "a number that is no float (int too"),
    "halves": (mapping(user_id=np.array(USERS) / 2), {}, "position 5: user_id 0.5 is no id; text"),
    "inexact": (mapping(item_id=[2.0**53] * 30), {}, "position 0: item_id 9007199254740992.0 is"),
    "lengths": (mapping(item_id=[1]), {}, "differ in length ('user_id' has 30, 'item_id' has 1, "),
    "no time": (
        mapping(when=[*WHEN[:7], None, *WHEN[8:]]),
        {"time": "when"},
        "frame, position 7: the time is missing",
    ),
    "no columns": ({}, {}, "frame: has no columns; users and items are needed"),
    "no frame": (5, {}, "a value of type int has no columns; give a frame, a mapping of arrays,"),
    "a series": (FRAME["user_id"], {}, "a value of type Series has no columns"),
    "not collected": (FRAME.lazy(), {}, "a LazyFrame has no rows yet; give frame.collect()"),
    "no titles": (FRAME, {"titles": "titel"}, "no column 'titel' for titles; the columns are"),
    "no column 0": (FRAME, {"item": 0}, "no column '0' for --item-column; the columns are user_id"),
    "list of titles": (FRAME, {"titles": ["a"]}, "no column \"['a']\" for titles; the columns are"),
    "no handling": (FRAME, {"duplicates": 3}, "unknown --duplicates 3; known: keep, first, last"),
    "missing ids": (FRAME, {"missing_ids": "dorp"}, "unknown --missing-ids 'dorp'; did you mean"),
    "no whole number": (FRAME, {"k_core": "5"}, "--k-core must be a whole number, not '5'"),
    "format of numbers": (
        mapping(when=np.arange(30)),
        {"time": "when", "time_format": "%d.%m.%Y"},
        "frame, position 0: time 0 is a number, and --time-format reads text; leave it out",
    ),
    "k-core": (FRAME, {"k_core": -1}, "--k-core must be at least 0, not -1"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings(
    "ignore:Determining the column names:polars.exceptions.PerformanceWarning"
)
def test_what_is_no_frame_of_events_is_said_in_one_sentence(case):
    frame, options, message = BAD[case]
    with pytest.raises(UserError) as raised:
        Dataset.from_frame(frame, **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_titles_by_column_or_by_id():
    titled = mapping(name=[f"title {item}" if item else None for item in ITEMS])
    expected = {str(item): f"title {item}" for item in range(1, 5)}
    assert Dataset.from_frame(titled, titles="name").titles == expected
    for nothing in (np.nan, None):
        by_id = {**{item: f"title {item}" for item in range(1, 5)}, 99: "no item", 0: nothing}
        assert Dataset.from_frame(mapping(), titles=by_id).titles == expected
    assert Dataset.from_frame(mapping()).titles == {}


def test_text_that_no_file_can_hold_is_replaced():
    for users in (["a", "\ud800"], np.array(["a", "\ud800"])):
        assert Dataset.from_frame((users, [1, 2]), k_core=0).user_ids.tolist() == ["a", "?"]


def test_what_was_guessed_is_said(caplog):
    caplog.set_level("INFO", "echojax")
    found = Dataset.from_frame(mapping(updated=SECONDS))
    assert found.fingerprint["source"] == {
        "format": "frame (user user_id, item item_id, time when)",
        "notes": caplog.messages,
    }
    assert "times are 'when': dates, 2020-09-13 to 2020-09-13 (UTC)" in caplog.messages[0]
    assert "column 'updated' looks like a time and is not used" in caplog.messages[1]
