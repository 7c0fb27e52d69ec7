import gzip
import json
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from echojax.data import DATASETS, Columns, Preparation, cache, item_titles, load, load_dataset
from echojax.data.events import read_events
from echojax.data.sources import Origin, Source, Statistics
from echojax.errors import UserError
from echojax.files import read_json
from echojax.serving.history_file import read_histories
from tests.data import EVERYTHING

# Six users who each met the same five items, in orders of their own.
ROWS = [(u, (u * 7 + i * 3) % 5, 100 * u + i) for u in range(6) for i in range(5)]
CSV = "user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in ROWS)
INTER = "user_id:token\titem_id:token\ttimestamp:float\n" + CSV.split("\n", 1)[1].replace(",", "\t")


@pytest.fixture
def said(caplog):
    """Return a function that returns the lines logged since it was last called."""
    caplog.set_level(logging.INFO, "echojax")

    def lines():
        found = caplog.messages.copy()
        caplog.clear()
        return found

    return lines


def test_own_file(write):
    dataset = load_dataset(data_path=write("my.clicks.csv.gz", CSV))
    assert dataset.name == "my"
    assert (dataset.num_users, dataset.num_items) == (6, 6)
    assert dataset.optimum is None
    source = dataset.fingerprint["source"]
    assert source["file"] == "my.clicks.csv.gz"
    assert source["format"] == "csv (user user, item item, time time)"
    assert len(source["sha256"]) == 64
    assert json.loads(json.dumps(dataset.fingerprint)) == dataset.fingerprint


def test_second_load_reads_the_cache_and_nothing_else(write, monkeypatch):
    path = write("a.csv", CSV)
    first = load_dataset(data_path=path)
    monkeypatch.setattr(load, "read_events", None)
    for again in (path, write("moved/a.csv", CSV)):
        second = load_dataset(data_path=again)
        assert second.fingerprint == first.fingerprint
        for name in ("items_T", "times_T", "offsets", "user_ids", "item_ids"):
            one, two = getattr(first, name), getattr(second, name)
            assert one.dtype == two.dtype
            np.testing.assert_array_equal(one, two)


def test_changed_files_and_options_are_prepared_again(write):
    path = write("a.csv", CSV)
    first = load_dataset(data_path=path)
    for preparation in (EVERYTHING, Preparation(duplicates="last")):
        other = load_dataset(data_path=path, preparation=preparation)
        assert other.fingerprint != first.fingerprint
    swapped = Columns(user="item", item="user")
    assert load_dataset(data_path=path, columns=swapped).num_users == 5
    info = path.stat()
    path.write_text(CSV.replace("\n0,0,0\n", "\n0,1,0\n"))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (info.st_mtime_ns, info.st_size)
    assert load_dataset(data_path=path).fingerprint["sha256"] != first.fingerprint["sha256"]


def test_a_file_that_is_written_to_meanwhile_is_not_kept(write, tmp_path, monkeypatch):
    path = write("a.csv", CSV)

    def read_late(files, columns):
        path.write_text(CSV + "0,0,9\n")
        return read_events(files, columns)

    monkeypatch.setattr(load, "read_events", read_late)
    with pytest.raises(UserError, match=r"a\.csv: was written to while it was read; start again"):
        load_dataset(data_path=path)
    assert not (tmp_path / "xdg").exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "folder", "pipe"])
def test_damaged_cache_is_prepared_again_and_said(damage, write, tmp_path, said):
    path = write("a.csv", CSV)
    first = load_dataset(data_path=path)
    (kept,) = (tmp_path / "xdg/echojax/prepared").iterdir()
    data = bytearray(kept.read_bytes())
    if damage == "cut":
        kept.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 3] ^= 1
        kept.write_bytes(data)
    elif damage in ("folder", "pipe"):
        kept.unlink()
        kept.mkdir() if damage == "folder" else os.mkfifo(kept)
    else:
        kept.write_bytes(b"" if damage == "empty" else b"no archive")
    said()
    assert load_dataset(data_path=path).fingerprint == first.fingerprint
    lines = said()
    assert "prepared again" in lines[0]
    assert len(lines) == (2 if damage == "folder" else 1)
    if damage != "folder":
        assert load_dataset(data_path=path).fingerprint == first.fingerprint
        assert said() == []


def test_cache_that_cannot_be_written_is_said(write, tmp_path, monkeypatch, said):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_dataset(data_path=write("a.csv", CSV)).num_users == 6
    assert "the next run prepares again" in said()[-1]


@pytest.fixture
def toy(monkeypatch):
    """A named data set with one origin that is a zip archive."""
    origin = Origin(file="toy.zip", url="http://127.0.0.1:9/toy.zip", member="toy/ratings.dat")
    files = ("toy.inter.gz", "toy.inter", "toy/toy.inter.gz", "toy/toy.inter")
    source = Source(max_len=5, files=files, origins=(origin,), five_core=Statistics(6, 5, 30))
    monkeypatch.setitem(DATASETS, "toy", source)
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    return origin


@pytest.mark.parametrize("name", ["toy.inter.gz", "toy.inter", "toy/toy.inter", "toy/toy.inter.gz"])
def test_named_data_is_looked_for_in_all_places(name, toy, write, tmp_path, monkeypatch):
    write(f"data/{name}", INTER)
    assert load_dataset("toy", data_dir=tmp_path / "data").num_users == 6
    monkeypatch.setenv("ECHOJAX_DATA", str(tmp_path / "data"))
    assert load_dataset("toy").num_users == 6
    assert load_dataset("toy", data_dir=tmp_path / "elsewhere").num_users == 6
    monkeypatch.delenv("ECHOJAX_DATA")
    write(f"xdg/echojax/data/{name}", INTER)
    assert load_dataset("toy").num_users == 6


def test_data_dir_comes_first(toy, write, tmp_path, monkeypatch):
    write("one/toy.inter", INTER)
    write("two/toy.inter", INTER.replace("\t", "\tx"))
    monkeypatch.setenv("ECHOJAX_DATA", str(tmp_path / "two"))
    assert load_dataset("toy", data_dir=tmp_path / "one").item_ids[1] == "0"


def test_publishers_archive_in_place(toy, tmp_path):
    with zipfile.ZipFile(tmp_path / "toy.zip", "w") as archive:
        archive.writestr(toy.member, "".join(f"{u}::{i}::5::{t}\n" for u, i, t in ROWS))
    dataset = load_dataset("toy", data_dir=tmp_path)
    assert dataset.fingerprint["source"]["format"] == "ratings.dat"


def test_archive_in_place_with_a_wrong_checksum_is_refused(tmp_path):
    (tmp_path / "ml-1m.zip").write_bytes(b"x" * DATASETS["ml-1m"].origins[0].size)
    with pytest.raises(UserError, match=r"ml-1m.zip: wrong checksum .*; delete it to fetch it"):
        load_dataset("ml-1m", data_dir=tmp_path)


def test_without_network_one_line_says_what_to_put_where(toy, tmp_path, said):
    with pytest.raises(UserError) as raised:
        load_dataset("toy", data_dir=tmp_path / "data")
    message = str(raised.value)
    url = "http://127.0.0.1:9/toy.zip"
    assert f"cannot download {url} (Connection refused). Put toy.zip (from {url}) or" in message
    assert message.endswith(f"toy.inter.gz into {tmp_path / 'data'}")
    assert "\n" not in message
    assert said() == [f"toy: fetching {url} into {tmp_path / 'data'}"]
    assert os.listdir(tmp_path / "data") == []


@pytest.mark.parametrize("right", [True, False])
def test_downloads_without_a_checksum_must_have_the_published_numbers(
    right, toy, tmp_path, monkeypatch
):
    rows = ROWS if right else ROWS[:-1]
    lines = "".join(json.dumps({"user": u, "item": i, "time": t}) + "\n" for u, i, t in rows)

    def download(url, part, origin):
        Path(part).write_bytes(gzip.compress(lines.encode()))

    monkeypatch.setattr("echojax.data.download._by_https", download)
    origin = Origin(file="toy.json.gz", url="https://example.invalid/toy.json.gz")
    source = Source(5, ("toy.inter",), (origin,), five_core=Statistics(6, 5, 30))
    monkeypatch.setitem(DATASETS, "toy", source)
    if right:
        assert load_dataset("toy", data_dir=tmp_path / "d").items_T.size == 30
    else:
        with pytest.raises(UserError, match="is not the published"):
            load_dataset("toy", data_dir=tmp_path / "d")
        assert os.listdir(tmp_path / "d") == []


def test_named_file_with_other_numbers_is_said(toy, write, tmp_path, said):
    write("toy.inter", INTER + "".join(f"9\t{i}\t1\n" for i in range(5)))
    load_dataset("toy", data_dir=tmp_path)
    assert "is not the published Statistics(users=6, items=5, interactions=30)" in said()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "ml1m"}, "unknown --dataset 'ml1m'; did you mean 'ml-1m'"),
        ({"name": "ml-1m", "columns": Columns(data_format="csv")}, "describe a --data-path"),
        ({"name": "ml-1m", "columns": Columns(user="u")}, "describe a --data-path"),
        ({"data_path": "absent.csv"}, "absent.csv: no such file"),
        ({"data_path": "."}, "is a folder"),
        ({"data_path": os.devnull}, "is no regular file"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        load_dataset(**arguments)


def test_one_user_left(write, tmp_path):
    rows = "".join(f"1,{i % 5},{i}\n" for i in range(50))
    with pytest.raises(UserError, match="a: at least two users and two items are needed, not 1 a"):
        load_dataset(data_path=write("a.csv", "user,item,time\n" + rows))
    assert not (tmp_path / "xdg").exists()


def test_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / ".cache" / "echojax"


def test_a_user_without_a_home_is_told_which_variable_to_set(monkeypatch, write):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", homeless)
    with pytest.raises(UserError, match="no home folder; set XDG_CACHE_HOME, or HOME"):
        load_dataset(data_path=write("a.csv", CSV))
    assert load_dataset("synthetic").num_users > 0


def test_notes_are_said_every_time(write, said):
    rows = "".join(f"{u},{i},{t},x\n" for u, i, t in ROWS)
    path = write("a.csv", f"user,item,ts,update\n{rows}")
    for _ in range(2):
        load_dataset(data_path=path)
        assert "column 'update' looks like a time and is not used" in said()[0]


READERS = {
    "data": lambda folder: load_dataset(data_path=folder / "a.csv"),
    "pattern": lambda folder: load_dataset(data_path=folder / "*.csv"),
    "histories": lambda folder: list(read_histories(folder / "a.csv")),
    "JSON": lambda folder: read_json(folder / "a.csv"),
}


@pytest.mark.parametrize("reader", READERS)
def test_pipes_are_named_and_never_waited_for(reader, tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(UserError, match=r"a\.csv.*no regular file"):
        READERS[reader](tmp_path)
    os.mkfifo(tmp_path / "b.item")
    assert item_titles("x", data_path=tmp_path / "b.inter") == {}


def test_titles_from_a_second_file(write, said):
    data = write("a.csv", CSV)
    items = write("i.csv", "item,name,by\n" + "".join(f"{i},Item {i},{i % 2}\n" for i in range(4)))
    found = load_dataset(data_path=data, items_path=items)
    assert found.titles == {str(i): f"Item {i}" for i in range(4)}
    assert said()[-1] == f"titles of 4 of 5 items: {items}"
    both = load_dataset(data_path=data, items_path=items, title_column="by, name")
    assert both.titles["3"] == "1 · Item 3"
    with pytest.raises(UserError, match=r"other items \(such as 'x'\) than the data \(such as '0'"):
        load_dataset(data_path=data, items_path=write("o.csv", "item,name\nx,y\n"))
    with pytest.raises(UserError, match="--title-column names a column of --items-path; give one"):
        load_dataset(data_path=data, title_column="name")


def test_titles_are_not_for_data_without_files(monkeypatch):
    frame = {"user": [1, 1, 2, 2], "item": [1, 2, 1, 2]}
    monkeypatch.setitem(DATASETS, "mine", Source(50, read=lambda: frame))
    for name in ("synthetic", "mine"):
        for flag in ("items_path", "title_column"):
            with pytest.raises(UserError, match=f"is for data in files, not for --dataset {name}"):
                load_dataset(name, **{flag: "items.csv"})


@pytest.mark.parametrize(("returned", "message"), [(None, "returned None"), ([], "no columns")])
def test_a_registered_function_that_returns_no_data(monkeypatch, returned, message):
    monkeypatch.setitem(DATASETS, "mine", Source(50, read=lambda: returned))
    with pytest.raises(UserError, match=message):
        load_dataset("mine")
