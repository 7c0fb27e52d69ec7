"""The same events in many dresses give the same histories."""

import csv
import io
import json
from datetime import datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echojax.data import tables
from tests.data.readable import histories, read

# Ids with what CSV, tokenisers and null values stumble over; none of them means a missing value.
NAMES = (
    """7|007|7.0|-1|a b|x,y|say "hi"|é|\xa05|5\xa0|q:x:5|#1|=1|True|nan nan|[bold]|\x1b[31m|'|1;2"""
)
ids = st.sampled_from([*NAMES.split("|"), "1|2", str(2**64), "2020-09-17", "x" * 255])
events = st.lists(st.tuples(ids, ids, st.integers(0, 5 * 10**8)), min_size=1, max_size=30)
plain_events = st.lists(
    st.tuples(*[ids.filter(lambda text: not set(text) & set(',"; |\t'))] * 2, st.integers(0, 99)),
    min_size=1,
    max_size=30,
)


def expected(rows):
    found = {}
    for user, item, _ in sorted(rows, key=lambda row: row[2]):  # stable
        found.setdefault(user, []).append(item)
    return found


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
    events,
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
    assert histories(read(path)) == expected(rows)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(events)
def test_json_lines(tmp_path, rows):
    lines = [json.dumps({"user": u, "item": i, "ts": 10**9 + t}) + "\n" for u, i, t in rows]
    (tmp_path / "x.json").write_text("".join(lines))
    assert histories(read(tmp_path / "x.json")) == expected(rows)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(plain_events, st.sampled_from([" ", "\t", "  ", " \t"]), st.sampled_from(["\n", "\r\n"]))
def test_histories_and_pairs(tmp_path, rows, gap, newline):
    lines = [gap.join([user, *items]) + newline for user, items in expected(rows).items()]
    (tmp_path / "h.txt").write_bytes("".join(lines).encode())
    assert histories(read(tmp_path / "h.txt", "histories")) == expected(rows)
    lines = [f"{u}{gap}{i}{newline}" for u, i, _ in sorted(rows, key=lambda row: row[2])]
    (tmp_path / "p.txt").write_bytes("".join(lines).encode())
    assert histories(read(tmp_path / "p.txt", "pairs")) == expected(rows)


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
        assert [line.split(",") for line in bare.decode().split("\n")[:-1] if line] == [
            row for row in parsed if row
        ]


def test_quoted_newlines_over_many_blocks_keep_their_lines(monkeypatch, write):
    monkeypatch.setattr("echojax.data.readers.read_blocks.__defaults__", (64,))
    rows = [(f"u{n}", f"a,{n}", "1\n2" if n % 3 else "") for n in range(200)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("user", "item", "note"))
    writer.writerows(rows)
    source = read(write("x.csv", text.getvalue()))
    assert source.item_ids[source.items_T].tolist() == [item for _, item, _ in rows]
