import collections

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojax.data import Preparation
from echojax.data.dataset import in_core, prepare
from echojax.data.order import time_order
from echojax.errors import UserError
from tests.data import EVERYTHING, items_by_user


def interactions(rows, timed=True):
    """Rows of (user, item, time), small numbers."""
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").with_columns(
        user=pl.format("u{}", "user"),
        item=pl.format("i{}", "item"),
        time=pl.col("time").cast(float),
    )
    return frame if timed else frame.drop("time")


def slow_core(rows, k):
    """Remove one user or item at a time, whatever comes first."""
    rows = list(rows)
    while True:
        for column in (0, 1):
            counts = collections.Counter(row[column] for row in rows)
            poor = next((value for value, count in counts.items() if count < k), None)
            if poor is not None:
                rows = [row for row in rows if row[column] != poor]
                break
        else:
            return rows


rows_strategy = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=60
)


@given(rows_strategy, st.integers(0, 5))
def test_core_is_that_of_one_removal_at_a_time(rows, k):
    users, items = np.array(rows)[:, 0], np.array(rows)[:, 1]
    kept = in_core(users, items, np.ones(len(rows), bool), k)
    assert sorted(row for row, keep in zip(rows, kept, strict=True) if keep) == sorted(
        slow_core(rows, k)
    )


@given(rows_strategy, st.sampled_from([0, 1, 2]), st.sampled_from(["keep", "first", "last"]))
def test_prepared_histories_are_those_of_a_plain_loop(rows, k, duplicates):
    preparation = Preparation(k_core=k, duplicates=duplicates)
    by_user = collections.defaultdict(list)
    for user, item, _ in sorted(rows, key=lambda row: (row[0], row[2])):  # stable
        by_user[user].append(item)
    for user, items in by_user.items():
        if duplicates == "first":
            by_user[user] = list(dict.fromkeys(items))
        if duplicates == "last":
            by_user[user] = list(dict.fromkeys(items[::-1]))[::-1]
    kept = slow_core([(user, item) for user in by_user for item in by_user[user]], k)
    expected = collections.defaultdict(list)
    for user, item in kept:
        expected[f"u{user}"].append(f"i{item}")
    if len(expected) < 2 or len({item for _, item in kept}) < 2:
        few = len(by_user) < 2 or len({item for _, item, _ in rows}) < 2
        says = "at least two users and two items" if few else f"after --k-core {k}; at least two"
        with pytest.raises(UserError, match=says):
            prepare("x", interactions(rows), preparation)
        return
    dataset = prepare("x", interactions(rows), preparation)
    assert items_by_user(dataset) == expected
    assert dataset.items_T.dtype == np.int32
    assert dataset.items_T.min() == 1
    assert dataset.num_items == dataset.items_T.max() + 1 == len(dataset.item_ids)
    assert dataset.item_ids[0] == ""


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.floats(-1e300, 1e300) | st.integers(-(2**60), 2**60)),
        min_size=1,
    )
)
def test_time_order_is_stable_for_any_times(rows):
    users = np.array([user for user, _ in rows], np.int32)
    times = np.array([time for _, time in rows], np.float64)
    expected = sorted(range(len(rows)), key=lambda i: (users[i], times[i]))
    assert time_order(users, times).tolist() == expected
    whole = np.floor(np.clip(times, -1e6, 1e6))
    expected = sorted(range(len(rows)), key=lambda i: (users[i], whole[i]))
    assert time_order(users, whole).tolist() == expected


def test_without_times_the_file_order_counts():
    rows = [(1, 5, 0), (2, 5, 0), (1, 3, 0), (2, 3, 0), (1, 4, 0)]
    dataset = prepare("x", interactions(rows, timed=False), EVERYTHING)
    assert items_by_user(dataset) == {"u1": ["i5", "i3", "i4"], "u2": ["i5", "i3"]}
    assert dataset.times_T.tolist() == [0, 1, 2, 0, 1]
    assert dataset.fingerprint["time"] == "position"


def test_fingerprint():
    rows = [(1, 1, 5), (1, 2, 5), (1, 1, 6), (2, 1, 1), (2, 2, 2), (3, 9, 1)]
    found = prepare("x", interactions(rows), Preparation(k_core=2)).fingerprint
    expected = {
        "users": 2,
        "items": 2,
        "interactions": 5,
        "history_length": {"min": 2, "25": 2, "50": 2, "75": 2, "95": 2, "max": 3},
        "tie_share": 1 / 3,
        "raw": {"users": 3, "items": 3, "interactions": 6},
        "k_core": 2,
        "duplicates": {"pairs": 1, "handling": "keep"},
        "time": "source",
    }
    assert len(found.pop("sha256")) == 64
    assert found == expected


@pytest.mark.parametrize("change", ["item", "time", "order", "id"])
def test_fingerprint_tells_data_apart(change):
    rows = [(1, 1, 1), (1, 2, 2), (2, 1, 1), (2, 2, 2), (2, 3, 3)]
    other = {
        "item": [*rows[:4], (2, 2, 3)],
        "time": [*rows[:4], (2, 3, 4)],
        "order": [rows[0], rows[1], (2, 2, 1), (2, 1, 2), rows[4]],
        "id": [*rows[:4], (2, 4, 3)],
    }[change]
    first, second = (prepare("x", interactions(r), EVERYTHING).fingerprint for r in (rows, other))
    assert first["sha256"] != second["sha256"]
    again = prepare("y", interactions(rows), EVERYTHING).fingerprint
    assert again == first


def test_unknown_duplicates_and_nothing_left():
    source = interactions([(1, 1, 1), (2, 2, 2)])
    with pytest.raises(UserError, match="unknown --duplicates 'frist'; did you mean 'first'"):
        Preparation(duplicates="frist")
    with pytest.raises(UserError, match="--k-core must be at least 0, not -1"):
        Preparation(k_core=-1)
    with pytest.raises(UserError, match="x: 0 users and 0 items are left of 2 users, 2 items"):
        prepare("x", source, Preparation(k_core=5))


def test_any_frame_of_events_is_a_data_set():
    """Ids may be numbers, categories or text; those of an Enum keep its order."""
    events = pl.DataFrame(
        {"user": [7, 3, 7, 3], "item": ["b", "a", "a", "c"], "time": [4, 1, 3, 2]}
    )
    expected = {"7": ["a", "b"], "3": ["a", "c"]}
    for item in (pl.String, pl.Categorical, pl.Enum(["c", "x", "b", "a"])):
        dataset = prepare("x", events.with_columns(pl.col("item").cast(item)), EVERYTHING)
        assert items_by_user(dataset) == expected
        first = item == pl.Enum(["c", "x", "b", "a"])
        assert dataset.item_ids.tolist() == ["", *("cba" if first else "bac")]
