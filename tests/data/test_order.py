"""Orders of events: rounded times, ties by the rows of the file or at random."""

import logging

import numpy as np
import polars as pl
import pytest

import echojax
from echojax.data import Dataset, Preparation, load_dataset
from echojax.data.dataset import prepare
from echojax.data.order import as_float32, order_words
from echojax.errors import UserError
from tests.data import items_by_user

START = 980_000_000  # a multiple of 64
# The rows of user 1 are not in the order of time; i2 to i4 lie within 64 seconds.
TIMES = {1: [("i1", 0), ("i3", 110), ("i2", 100), ("i4", 150)], 2: [("i1", 0), ("i2", 500)]}
ROWS = [(user, item, START + time) for user, rows in TIMES.items() for item, time in rows]


def frame(rows=ROWS):
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


def ordered(rows=ROWS, **order):
    return items_by_user(prepare("x", frame(rows), Preparation(k_core=0, **order)))["1"]


def test_float32_is_64_seconds_apart():
    after = np.array([0, 31, 33, 95, 97, 130])
    assert (as_float32(after + START) - START).tolist() == [0, 0, 64, 64, 128, 128]
    assert as_float32(after + START).dtype == np.float64
    with pytest.raises(UserError, match="--time-precision float32: time 1e\\+39 is too large"):
        as_float32(np.array([1.0, 1e39]))


def test_rounded_times_leave_the_order_to_the_rows():
    assert ordered() == ["i1", "i2", "i3", "i4"]
    assert ordered(time_precision="float32") == ["i1", "i3", "i2", "i4"]
    rounded = prepare("x", frame(), Preparation(k_core=0, time_precision="float32"))
    assert (rounded.times_T[:4] - START).tolist() == [0, 128, 128, 128]
    assert rounded.fingerprint["order"] == {
        "time_precision": "float32",
        "ties": "file",
        "rows_in_time_order": False,
    }
    assert order_words(rounded.fingerprint) == "in the file's order, times rounded to float32"


def test_random_ties_are_those_of_the_seed_and_only_ties():
    rows = [(1, f"i{n}", n // 20) for n in range(60)] + [(2, "i0", 0)]
    first = ordered(rows, ties="random:1")
    assert first == ordered(rows, ties="random:1") != ordered(rows, ties="random:2")
    for tie in range(3):
        tied = slice(20 * tie, 20 * tie + 20)
        assert sorted(first[tied]) == sorted(ordered(rows)[tied]) != first[tied]
    one, other = (
        prepare("x", frame(rows), Preparation(k_core=0, ties=ties)) for ties in ("file", "random:1")
    )
    assert one.item_ids.tolist() == other.item_ids.tolist()
    assert "order" not in one.fingerprint
    assert order_words(other.fingerprint) == "in a random order (random:1)"


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ({"ties": "random"}, "--ties 'random': must be file, or random:SEED such as random:0"),
        ({"ties": "random:-1"}, "--ties 'random:-1': must be"),
        ({"ties": 3}, "--ties 3: must be"),
        ({"time_precision": "float23"}, "unknown --time-precision 'float23'; did you mean"),
    ],
)
def test_what_is_no_order_is_one_line(order, says):
    for prepared in (
        lambda: Preparation(**order),
        lambda: Dataset.from_frame(frame(), k_core=0, **order),
    ):
        with pytest.raises(UserError, match=says):
            prepared()
    with pytest.raises(UserError, match="x: --ties random:0 is about times, and there are none"):
        prepare("x", frame().drop("time"), Preparation(k_core=0, ties="random:0"))


def test_sorted_files_are_said_and_caches_are_not_mixed(tmp_path, caplog):
    caplog.set_level(logging.INFO, "echojax")
    says = "each user's rows are in the order of exact times already"
    for name, rows in (("publisher", ROWS), ("sorted", sorted(ROWS, key=lambda row: row[::2]))):
        path = tmp_path / f"{name}.csv"
        frame(rows).write_csv(path)
        found = {}
        for _ in range(2):  # the second time from the cache
            for order in ({}, {"time_precision": "float32"}, {"ties": "random:5"}):
                caplog.clear()
                dataset = load_dataset(data_path=path, preparation=Preparation(k_core=0, **order))
                assert (says in caplog.text) == (name == "sorted" and "time_precision" in order)
                sha256 = found.setdefault(str(order), dataset.fingerprint["sha256"])
                assert sha256 == dataset.fingerprint["sha256"]
        assert len({*found.values()}) >= 2


def test_a_run_is_of_one_order(tmp_path):
    rows = [(user, f"i{n}", START + n // 3) for user in range(4) for n in range(6)]
    options = {"model": "popularity", "k_core": 0, "run_dir": str(tmp_path / "run")}
    run = echojax.train(frame(rows), ties="random:1", **options)
    assert run.results["dataset"]["order"]["ties"] == run.config.ties == "random:1"
    for order in ({"ties": "random:2"}, {"time_precision": "float32"}):
        with pytest.raises(UserError, match=r"was made with --t.* leave --t.* out"):
            echojax.train(frame(rows), **{"ties": "random:1", **options, **order}, resume=True)
