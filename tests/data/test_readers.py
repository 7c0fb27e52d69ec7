import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echojax.data.formats import COLUMNAR, FORMATS, Columns
from echojax.data.readers import read_interactions
from echojax.data.text import TextFile
from echojax.errors import UserError

# The same interactions in every format that knows times.
USERS = ["7", "ann", "7", "b-2", "ann"]
ITEMS = ["10", "x y", "11", "10", "11"]
TIMES = [30.0, 20.0, 10.5, 1e9, 20.0]
ROWS = list(zip(USERS, ITEMS, TIMES, strict=True))
TIMED = {
    "a.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    + "".join(f"{u}\t{i}\t4\t{t}\n" for u, i, t in ROWS),
    "ratings.dat": "".join(f"{u}::{i}::4::{t}\n" for u, i, t in ROWS),
    "u.data": "".join(f"{u}\t{i}\t4\t{t}\n" for u, i, t in ROWS),
    "ratings_Toys.csv": "".join(f"{u},{i},4.0,{t}\n" for u, i, t in ROWS),
    "a.csv": "rating,timestamp,movieId,userId\n" + "".join(f"4,{t},{i},{u}\n" for u, i, t in ROWS),
    "b.csv": "User ID;Item;ts\n" + "".join(f"{u};{i};{t}\n" for u, i, t in ROWS),
    "quoted.csv": 'userId,title,"movieId",timestamp\n'
    + "".join(f'"{u}","A ""B"", C\nD","{i}",{t}\n' for u, i, t in ROWS),
    "a.tsv": "user\titem\ttime\n" + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in ROWS),
    "reviews.json": "".join(
        json.dumps({"reviewerID": u, "asin": i, "text": "a\tb\n", "unixReviewTime": t}) + "\n"
        for u, i, t in ROWS
    ),
}
FORMAT_OF = {
    **dict.fromkeys(["a.csv", "b.csv", "quoted.csv"], "csv"),
    **{"a.inter": "inter", "a.tsv": "tsv", "reviews.json": "jsonl"},
    **{"ratings.dat": "ratings.dat", "u.data": "u.data", "ratings_Toys.csv": "ratings.csv"},
}


def read(path, data_format=None, **columns):
    return read_interactions(TextFile(path), data_format, Columns(**columns))


def rows_of(source):
    times = [None] * source.users_T.size if source.times_T is None else source.times_T.tolist()
    return list(
        zip(
            source.user_ids[source.users_T].tolist(),
            source.item_ids[source.items_T].tolist(),
            times,
            strict=True,
        )
    )


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", TIMED)
def test_every_timed_format_is_recognised_and_read(name, packed, write):
    source, layout = read(write(name + packed, TIMED[name]))
    assert layout.data_format == FORMAT_OF[name]
    assert str(layout).startswith(layout.data_format)
    assert rows_of(source) == ROWS


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_pairs(packed, write):
    source, layout = read(write("sas.txt" + packed, "1 5\n1 6\n\n2\t 5 \n1 5\n"))
    assert layout.data_format == "pairs"
    expected = [("1", "5"), ("1", "6"), ("2", "5"), ("1", "5")]
    assert rows_of(source) == [(*row, None) for row in expected]


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_histories(packed, write):
    text = "ann 5 6 7\nbob 7\nempty\nann 9 5\ncyd 1 2 3 4 5\n"
    source, layout = read(write("sequences.txt" + packed, text))
    assert layout.data_format == "histories"
    histories = [("ann", "5 6 7"), ("bob", "7"), ("ann", "9 5"), ("cyd", "1 2 3 4 5")]
    expected = [(user, item, None) for user, items in histories for item in items.split()]
    assert rows_of(source) == expected


def test_columns_by_name(write):
    text = "session,user_id,sku,item_id,when\ns1,1,a,2,5\ns2,1,b,2,6\n"
    path = write("clicks.txt", text)
    assert rows_of(read(path)[0]) == [("1", "2", None), ("1", "2", None)]
    chosen, layout = read(path, user="session", item="sku", time="when")
    assert rows_of(chosen) == [("s1", "a", 5.0), ("s2", "b", 6.0)]
    assert str(layout) == "csv (user session, item sku, time when)"


def test_inter_columns_by_name(write):
    text = "session_id:token\titem_id:token\torder:float\n1\t2\t3\n"
    source, _ = read(write("s.inter", text), user="session_id", time="order")
    assert rows_of(source) == [("1", "2", 3.0)]


def test_forced_format(write):
    path = write("x", "1 2 3\n4 5 6\n")
    with pytest.raises(UserError, match="not recognised from '1 2 3'; choose --data-format inter"):
        read(path)
    assert len(rows_of(read(path, "histories")[0])) == 4


def test_quoted_and_unquoted_csv_agree_over_many_blocks(write, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", float(t)) for u, i, t in rng.integers(0, 99, (3000, 3))]
    plain = "user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows)
    # The first quote comes late, so that the reader changes its ways inside the file.
    late = plain.replace("\n" + plain.split("\n")[2000], '\n"' + plain.split("\n")[2000], 1)
    late = late.replace(plain.split("\n")[2000], plain.split("\n")[2000].replace(",", '",', 1), 1)
    assert late.count('"') == 2
    monkeypatch.setattr("echojax.data.readers.read_blocks.__defaults__", (4096,))
    monkeypatch.setattr("echojax.data.tables._ROWS_AT_ONCE", 100)
    assert rows_of(read(write("plain.csv", plain))[0]) == rows
    assert rows_of(read(write("late.csv", late))[0]) == rows


INTER = "user_id:token\titem_id:token\ttimestamp:float\n"
BAD = {
    "text time": ("a.inter", INTER + "1\t2\t3\n1\t2\tnoon\n", "line 3: time 'noon' is not"),
    "NaN time": ("a.inter", INTER + "1\t2\tnan\n", "line 2: time 'nan' is not a finite"),
    "long id": ("a.inter", INTER + f"1\t{'9' * 256}\t3\n", "line 2: item id of 256 bytes; at most"),
    "missing field": ("a.inter", INTER + "1\t2\t3\n1\t2\n", "line 3: 2 fields where 3 are exp"),
    "empty id": ("a.inter", INTER + "1\t\t3\n", "line 2: empty item id"),
    "header only": ("a.inter", INTER, "no interactions"),
    "blank": ("a.txt", "\n\n\n", "no interactions"),
    "no item column": (
        "a.inter",
        "user_id:token\tthing:token\n1\t2\n",
        "no item column among user_id, thing; name it with --item-column",
    ),
    "no user column": ("a.csv", "who,item\n1,2\n", "no user column among who, item"),
    "dat": ("ratings.dat", "1::2::3::4\n1::2::3\n", "line 2: 3 fields where 4 are expected"),
    "dat time": ("ratings.dat", "1::2::3::4\n1::2::3::x\n", "line 2: time 'x'"),
    "u.data": ("u.data", "1\t2\t3\t4\n\n1\t2\t3\tx\n", "line 3: time 'x'"),
    "csv": ("a.csv", "user,item,time\r\n1,2,3\r\n1,2,3,4\r\n", "line 3: 4 fields where 3"),
    "csv time": ("a.csv", 'user,item,time\n"1\n",2,3\n', "line 2: an id holds a tab or newline"),
    "csv quote": ("a.csv", 'user,item,time\n1,2,3\n1,"2,3\n', "line 3: broken CSV"),
    "quoted line": ("a.csv", 'user,item,t,time\n1,2,"\n\n",3\n1,2,"a",x\n', "line 5: time 'x'"),
    "quoted fields": ("a.csv", 'user,item,time\n1,"2",3\n1,"2"\n', "line 3: 2 fields where 3"),
    "pairs": ("a.txt", "1 2\n3 4\n5 6 7\n", "line 3: 3 words where a user and an item"),
    "json": ("a.json", '{"user": 1, "item": 2}\n\n{"user": \n', "line 3: is not JSON"),
    "json null": ("a.json", '{"user": 1, "item": 2}\n{"user": 1}\n', "line 2: no 'item' that"),
    "json list": ("a.json", '{"user": 1, "item": 2}\n[1]\n', "line 2: no 'user' that"),
    "json deep": ("a.json", '{"user": 1, "item": 2}\n' + "[" * 100_000, "line 2: is not JSON"),
    "json time": ("a.json", '{"user": 1, "item": 2, "ts": "x"}\n', "line 1: time 'x'"),
    "binary": ("a.npz", b"PK\3\4\0\0\0", "is a zip archive; unpack it"),
    "NUL": ("a.csv", b"user,item\n1,2\n1,\0\n", "line 3: holds a NUL byte"),
    "prose": ("a.txt", "Dear reader, hello\nthere, you\n", "format not recognised"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_name_the_line_or_the_columns(case, write):
    name, text, message = BAD[case]
    with pytest.raises(UserError) as raised:
        read(write(name, text))
    assert message in str(raised.value)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_unknown_columns_and_formats(write):
    path = write("a.csv", "user,item,time\n1,2,3\n")
    with pytest.raises(UserError, match="no column 'when' for --time-column; the file has user, i"):
        read(path, time="when")
    with pytest.raises(UserError, match="unknown --data-format 'cvs'; did you mean 'csv'"):
        read(path, "cvs")
    with pytest.raises(UserError, match="pairs has no column names"):
        read(path, "pairs", user="user")


def test_every_format_is_covered_here():
    others = {"pairs", "histories", *COLUMNAR.values()}
    assert set(FORMAT_OF.values()) | others == set(FORMATS)


odd_bytes = st.sampled_from([b"\t", b"\n", b",", b'"', b"::", b"\r", b"9" * 30])
edit = st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3) | odd_bytes)
edits = st.lists(edit, max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(sorted(TIMED)), edits, st.sampled_from([None, *FORMATS]))
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, name, changes, data_format):
    data = TIMED[name].encode()
    for position, removed, inserted in changes:
        data = data[:position] + inserted + data[position + removed :]
    (tmp_path / name).write_bytes(data)
    refusal = None
    try:
        source, _ = read(tmp_path / name, data_format)
    except UserError as error:
        refusal = str(error)
    if refusal is None:
        assert source.users_T.size == source.items_T.size > 0
    else:
        assert name in refusal
        assert "\n" not in refusal
