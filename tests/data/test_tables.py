"""Rows of every text format: the same events in many dresses, and the line of what is wrong."""

import csv
import io
import json
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echojax.data import tables
from echojax.data.layouts import COLUMNAR, FORMATS
from echojax.errors import UserError
from tests.data import histories, in_time_order, read, rows_of

ROWS = [
    *[("7", "10", 30.0), ("ann", "x y", 20.0), ("7", "11", 10.5), ("b-2", "10", 1e9)],
    ("ann", "11", 20.0),
]
# By the name of a file, its format and the rows in it: all formats that know times.
TIMED = {
    "a.inter": (
        "inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        + "".join(f"{u}\t{i}\t4\t{t}\n" for u, i, t in ROWS),
    ),
    "ratings.dat": ("ratings.dat", "".join(f"{u}::{i}::4::{t}\n" for u, i, t in ROWS)),
    "u.data": ("u.data", "".join(f"{u}\t{i}\t4\t{t}\n" for u, i, t in ROWS)),
    "ratings_Toys.csv": ("ratings.csv", "".join(f"{u},{i},4.0,{t}\n" for u, i, t in ROWS)),
    "a.csv": (
        "csv",
        "rating,timestamp,movieId,userId\n" + "".join(f"4,{t},{i},{u}\n" for u, i, t in ROWS),
    ),
    "b.csv": ("csv", "User ID;Item;ts\n" + "".join(f"{u};{i};{t}\n" for u, i, t in ROWS)),
    "quoted.csv": (
        "csv",
        'userId,title,"movieId",timestamp\n'
        + "".join(f'"{u}","A ""B"", C\nD","{i}",{t}\n' for u, i, t in ROWS),
    ),
    "a.tsv": ("tsv", "user\titem\ttime\n" + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in ROWS)),
    "reviews.json": (
        "jsonl",
        "".join(
            json.dumps({"reviewerID": u, "asin": i, "text": "a\tb\n", "unixReviewTime": t}) + "\n"
            for u, i, t in ROWS
        ),
    ),
}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", TIMED)
def test_every_timed_format_is_recognised_and_read(name, packed, write):
    data_format, text = TIMED[name]
    found = read(write(name + packed, text))
    assert found.layout.data_format == data_format
    assert str(found.layout).startswith(data_format)
    assert rows_of(found) == ROWS


def test_pairs_and_histories(write):
    found = read(write("sas.txt", "1 5\n1 6\n\n2\t 5 \n1 5\n"))
    assert found.layout.data_format == "pairs"
    pairs = [("1", "5"), ("1", "6"), ("2", "5"), ("1", "5")]
    assert rows_of(found) == [(*row, None) for row in pairs]
    text = "ann 5 6 7\nbob 7\nempty\nann 9 5\ncyd 1 2 3 4 5\n"
    found = read(write("sequences.txt.gz", text))
    assert found.layout.data_format == "histories"
    lines = [("ann", "5 6 7"), ("bob", "7"), ("ann", "9 5"), ("cyd", "1 2 3 4 5")]
    assert rows_of(found) == [(user, item, None) for user, items in lines for item in items.split()]


def test_json_lines_as_data_frames_write_them(write):
    text = '  {"user": 1.0, "item": 2, "ts": 7}\n {"ts": 1.5, "item": 3.0, "user": null}\n'
    text += '{"user": 2, "item": 2.0, "ts": 1600000000.0}\n{"item": 3.5, "user": 1, "ts": 2}\n'
    found = read(write("x.json", text), missing="drop")
    assert rows_of(found) == [("1", "2", 7.0), ("2", "2", 1.6e9), ("1", "3.5", 2.0)]


def test_quotes_of_a_tsv_can_be_taken_as_they_are(write):
    path = write("x.tsv", '1\t2020-09-17\t"Weird Al" Y\n2\t2020-09-18\t12" Mix\n')
    with pytest.raises(UserError, match=r"line 1: broken CSV .*--data-format inter takes quotes"):
        read(path, names="user,time,item")
    found = read(path, "inter", names="user,time,item")
    assert [row[:2] for row in rows_of(found)] == [("1", '"Weird Al" Y'), ("2", '12" Mix')]


@pytest.mark.parametrize("quote", ["", '"'])
def test_empty_rows_of_spreadsheets_are_blank_lines(quote, write):
    text = f"user;item;note;time\n;;;\n{quote}1{quote};2;a;3\n  \n;;;\n \t\n4;5;b;6\n;; ;\n"
    assert rows_of(read(write("x.csv", text))) == [("1", "2", 3.0), ("4", "5", 6.0)]
    with pytest.raises(UserError, match=r"x.csv, line 9: time 'noon'"):
        read(write("x.csv", text + "4;5;b;noon\n"))
    with pytest.raises(UserError, match="line 9: empty user id"):  # it has a note
        read(write("x.csv", text + ";;b;\n"))


def test_a_header_that_comes_again_is_no_event(write):
    text = "user,item\n1,2\n3,4\n"
    with pytest.raises(UserError, match=r"x.csv, line 4: repeats the header; delete the line"):
        read(write("x.csv", text + text))
    assert read(write("x.csv", text + "user,5\n")).frame.height == 3


def test_columns_by_name(write):
    text = "session,user_id,sku,item_id,when\ns1,1,a,2,5\ns2,1,b,2,6\n"
    path = write("clicks.txt", text)
    assert rows_of(read(path)) == [("1", "2", None), ("1", "2", None)]
    chosen = read(path, user="session", item="sku", time="when")
    assert rows_of(chosen) == [("s1", "a", 5.0), ("s2", "b", 6.0)]
    assert str(chosen.layout) == "csv (user session, item sku, time when)"
    text = "session_id:token\titem_id:token\torder:float\n1\t2\t3\n"
    found = read(write("s.inter", text), user="session_id", time="order")
    assert rows_of(found) == [("1", "2", 3.0)]


def test_forced_format(write):
    path = write("x", "1 2 3\n4 5 6\n")
    with pytest.raises(UserError, match="not recognised from '1 2 3'; choose --data-format inter"):
        read(path)
    assert len(rows_of(read(path, "histories"))) == 4


def test_quoted_and_unquoted_csv_agree_over_many_blocks(write, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", float(t)) for u, i, t in rng.integers(0, 99, (3000, 3))]
    plain = "user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows)
    # The first quote comes late, so that the reader changes its ways inside the file.
    late = plain.replace("\n" + plain.split("\n")[2000], '\n"' + plain.split("\n")[2000], 1)
    late = late.replace(plain.split("\n")[2000], plain.split("\n")[2000].replace(",", '",', 1), 1)
    assert late.count('"') == 2
    monkeypatch.setattr("echojax.data.tables.read_blocks.__defaults__", (4096,))
    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", 100)
    assert rows_of(read(write("plain.csv", plain))) == rows
    assert rows_of(read(write("late.csv", late))) == rows


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
    "json null": ("a.json", '{"user": 1, "item": 2}\n{"user": 1}\n', "line 2: empty item id; 1 o"),
    "json list": ("a.json", '{"user": 1, "item": 2}\n[1]\n', "line 2: is not a JSON object"),
    "json truth": (
        "a.json",
        '{"user": true, "item": 2}\n',
        "line 1: 'user' is true or false, not text or",
    ),
    "json no time": (
        "a.json",
        '{"user": 1, "item": 2}\n{"user": 1, "item": 3, "ts": 4}\n',
        "line 1: time ''",
    ),
    "json events": (
        "a.json",
        '{"user": 1, "item": [{"id": 2}]}\n',
        "line 1: 'item' is a list or an object, not text or a number; write a line for each",
    ),
    "markdown": ("a.md", "|user|item|\n|---|:--:|\n|1|2|\n", "line 2: is a rule below the header"),
    "sqlcmd": ("a.csv", "user,item\n----,----\n1,2\n", "line 2: is a rule below the header; del"),
    "json deep": ("a.json", '{"user": 1, "item": 2}\n' + "[" * 100_000, "line 2: is not JSON"),
    "json time": ("a.json", '{"user": 1, "item": 2, "ts": "x"}\n', "line 1: time 'x'"),
    "binary": ("a.npz", b"PK\3\4\0\0\0", "is a zip archive; unpack it"),
    "xlsx": (
        "a.xlsx",
        b"PK\3\4" + bytes(26) + b"[Content_Types].xml",
        "is an Excel workbook; export it as CSV or Parquet",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_name_the_line_or_the_columns(case, write):
    name, text, message = BAD[case]
    with pytest.raises(UserError) as raised:
        read(write(name, text))
    assert message in str(raised.value)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_format_is_covered_here():
    others = {"pairs", "histories", *COLUMNAR.values()}
    assert {data_format for data_format, _ in TIMED.values()} | others == set(FORMATS)


odd_bytes = st.sampled_from([b"\t", b"\n", b",", b'"', b"::", b"\r", b"9" * 30])
edit = st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3) | odd_bytes)
edits = st.lists(edit, max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(sorted(TIMED)), edits, st.sampled_from([None, *FORMATS]))
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, name, changes, data_format):
    data = TIMED[name][1].encode()
    for position, removed, inserted in changes:
        data = data[:position] + inserted + data[position + removed :]
    (tmp_path / name).write_bytes(data)
    refusal = None
    try:
        found = read(tmp_path / name, data_format)
    except UserError as error:
        refusal = str(error)
    if refusal is None:
        assert found.frame.height > 0
    else:
        assert name in refusal
        assert "\n" not in refusal


# Ids with what CSV, tokenisers and null values stumble over; none of them means a missing value.
NAMES = (
    """7|007|7.0|-1|a b|x,y|say "hi"|é|\xa05|5\xa0|q:x:5|#1|=1|True|nan nan|[bold]|\x1b[31m|'|1;2"""
)
ids = [*NAMES.split("|"), "1|2", str(2**64), "2020-09-17", "x" * 255]
plain_ids = [text for text in ids if not set(text) & set(',"; |\t')]


def rows_with(ids):
    """Rows of (user, item, time)."""
    row = st.tuples(st.sampled_from(ids), st.sampled_from(ids), st.integers(0, 5 * 10**8))
    return st.lists(row, min_size=1, max_size=20)


def moment(seconds, pattern):
    return (datetime(2010, 1, 1) + timedelta(seconds=seconds)).strftime(pattern)


TIMES = {
    "seconds": lambda t: str(1262304000 + t),
    "nanoseconds": lambda t: str((1262304000 + t) * 10**9 + 1),
    "point": lambda t: f"{1262304000 + t}.5",
    "ISO": lambda t: moment(t, "%Y-%m-%d %H:%M:%S"),
    "zone": lambda t: moment(t, "%Y-%m-%dT%H:%M:%S.000Z"),
    "digits": lambda t: moment(t, "%Y%m%d%H%M%S"),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows_with(ids),
    st.sampled_from(",;|\t"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n", "\r\r\n", "\n\n"]),
    st.sampled_from(sorted(TIMES)),
    st.permutations(["user_id", "title", "item_id", "timestamp"]),
    st.booleans(),
)
def test_tables(tmp_path, rows, delimiter, quoting, newline, kind, order, mark):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=newline)
    writer.writerow(order)
    for user, item, time in rows:
        row = {"user_id": user, "title": "", "item_id": item, "timestamp": TIMES[kind](time)}
        writer.writerow([row[name] for name in order])
    path = tmp_path / ("x.tsv" if delimiter == "\t" else "x.csv")
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.getvalue().encode())
    assert histories(read(path)) == in_time_order(rows)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows_with(ids))
def test_json_lines(tmp_path, rows):
    lines = [json.dumps({"user": u, "item": i, "ts": 10**9 + t}) + "\n" for u, i, t in rows]
    (tmp_path / "x.json").write_text("".join(lines))
    assert histories(read(tmp_path / "x.json")) == in_time_order(rows)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows_with(plain_ids), st.sampled_from([" ", "\t", "  ", " \t"]), st.sampled_from(["\n", "\r\n"])
)
def test_histories_and_pairs(tmp_path, rows, gap, newline):
    lines = [gap.join([user, *items]) + newline for user, items in in_time_order(rows).items()]
    (tmp_path / "h.txt").write_bytes("".join(lines).encode())
    assert histories(read(tmp_path / "h.txt", "histories")) == in_time_order(rows)
    lines = [f"{u}{gap}{i}{newline}" for u, i, _ in sorted(rows, key=lambda row: row[2])]
    (tmp_path / "p.txt").write_bytes("".join(lines).encode())
    assert histories(read(tmp_path / "p.txt", "pairs")) == in_time_order(rows)


LOOK_ALIKE = {
    "7.0": "'7.0' and '7'",
    "007": "'007' and '7'",
    "\u200b7": r"'\u200b7' and '7'",
    "\uff17": r"'\uff17' and '7'",
    "7\xa0": r"'7\xa0' and '7'",
}


@pytest.mark.parametrize("other", LOOK_ALIKE)
def test_ids_that_look_alike_are_named(other, write):
    found = read(write("x.csv", f"user,item\n1,7\n2,{other}\n"))
    (note,) = found.notes
    assert "warning: 1 item ids look like others, such as " + LOOK_ALIKE[other] in note
    assert note.isprintable()
    assert histories(found) == {"1": ["7"], "2": [other]}


def test_ids_of_two_unicode_forms_are_named_and_others_are_not(write):
    (note,) = read(write("x.csv", "user,item\ncafe\u0301,7.0\ncaf\u00e9,08\n")).notes
    assert "1 user ids look like others, such as 'cafe\\u0301' and 'caf\\xe9'" in note
    (note,) = read(write("x.csv", "user,item\n1,1.23457E+11\n2,1e10\n")).notes
    assert note.startswith("warning: 1 item ids, such as '1.23457E+11', are numbers that a program")


def test_ids_that_another_program_has_quoted_are_said(write):
    text = 'user,item\nb\'7\',"=""01"""\nb\'8\',"=""02"""\n'
    one, two = read(write("x.csv", text)).notes
    assert one.startswith("warning: 2 user ids, such as \"b'7'\", have quotes of another program")
    assert "2 item ids, such as '=\"01\"'" in two
    assert not read(write("x.csv", 'user,item\n\'7,b"\n8\',"=1"\n')).notes


fields = st.text(st.sampled_from('ab",\n '), max_size=4)


@given(st.lists(st.lists(fields, min_size=3, max_size=3), min_size=1, max_size=4), st.booleans())
def test_quotes_are_dropped_only_where_a_parser_would(rows, broken):
    text = io.StringIO()
    if broken:
        text.write("".join(",".join(row) + "\n" for row in rows))
    else:
        csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    data = text.getvalue().encode()
    bare = tables._without_quotes(data, ",")
    if bare is not None:
        parsed = list(csv.reader(io.StringIO(data.decode()), strict=True))
        assert [line.split(",") for line in bare.decode().split("\n") if line.strip(",")] == [
            row for row in parsed if any(row)
        ]


def test_quoted_newlines_over_many_blocks_keep_their_lines(monkeypatch, write):
    monkeypatch.setattr("echojax.data.tables.read_blocks.__defaults__", (64,))
    rows = [(f"u{n}", f"a,{n}", "1\n2" if n % 3 else "") for n in range(200)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("user", "item", "note"))
    writer.writerows(rows)
    source = read(write("x.csv", text.getvalue()))
    assert [item for _, item, _ in rows_of(source)] == [item for _, item, _ in rows]
