"""What ``echojax data`` says of a file."""

import json
from dataclasses import replace

import pytest

from echojax.commands import data as command
from echojax.data import DATASETS, Columns, Preparation, description_of
from echojax.data.description import LENGTHS
from echojax.data.sources import Source
from echojax.errors import UserError
from tests.data import EVERYTHING

# u0 to u2 have five events each of five items; u3 meets i0 three times, twice in the same second.
ROWS = [(f"u{u}", f"i{i}", 1_600_000_000 + 86_400 * i) for u in range(3) for i in range(5)]
ROWS += [("u3", "i0", 1_600_000_000 + n // 2) for n in range(3)]
CSV = "user;item;page\x1b[31m;when;seen_at\n" + "".join(f"{u};{i};p;{t};x\n" for u, i, t in ROWS)


def test_numbers_before_and_after_the_core(write):
    path = write("a.csv", CSV)
    found = description_of(data_path=path, preparation=Preparation(k_core=3))
    assert (found.name, found.files, found.layout.delimiter) == ("a", (str(path),), ";")
    for numbers in (found.before, found.after):
        assert (numbers.users, numbers.items, numbers.events) == (4, 5, 18)
        assert numbers.repeats == 2 / 18
        assert numbers.ties == 1 / 14
        assert numbers.span == "2020-09-13 to 2020-09-17 (UTC)"
        assert numbers.per_user == {"min": 3, "median": 5, "max": 5}
        assert numbers.per_item == {"min": 3, "median": 3, "max": 6}
        lengths = dict(zip(LENGTHS, numbers.histogram, strict=True))
        assert {start: users for start, users in lengths.items() if users} == {3: 1, 5: 3}
    first = Preparation(k_core=3, duplicates="first")
    assert description_of(data_path=path, preparation=first).after.users == 3
    nothing = description_of(data_path=path, preparation=Preparation(k_core=9))
    assert nothing.after is None
    assert "0 users and 0 items are left of 4 users" in nothing.problem


def test_histories_that_only_the_core_leaves_are_shown(write, capsys):
    rows = [f"u{u},i{i}" for u in range(4) for i in range(4)] + [f"u{u},x{u}" for u in range(4)]
    command.main([str(write("a.csv", "user,item\n" + "\n".join(rows) + "\n")), "--k-core", "4"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["3–4", "0", "4"] in [line[:3] for line in lines]


def test_rows_without_a_user_are_counted_and_left_out(write):
    path = write("a.csv", CSV + "NA;i0;p;1600000000;x\n")
    assert description_of(data_path=path).before.events == 18
    assert description_of(data_path=path).notes[-1] == (
        "1 of 19 rows have no user id (NA): left out, which training does with --missing-ids drop "
        "only"
    )
    assert description_of(data_path=path, columns=Columns(missing="keep")).before.users == 5


def test_data_without_files_or_times(write):
    found = description_of("synthetic")
    assert (found.files, found.layout, found.before) == ((), None, found.after)
    path = write("h.txt", "a 1 2 3\nb 2 3\n")
    found = description_of(data_path=path, preparation=EVERYTHING)
    assert (found.before.ties, found.before.span) == (None, None)
    with pytest.raises(UserError, match="unknown --dataset 'ml1m'; did you mean 'ml-1m'"):
        description_of("ml1m")


def test_all_of_it_as_json(write, capsys):
    path = write("a.csv", CSV)
    command.main([str(path), "--k-core", "3", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["after"]["events"] == 18
    assert [one["ties"] for one in found["order"]["orders"]] == ["file", "random"] * 2
    command.main([str(path), "--k-core", "9", "--json", "--ties", "random:1"])
    found = json.loads(capsys.readouterr().out)
    assert (found["after"], found["order"]) == (None, None)
    assert (found["k_core"], found["ties"], found["duplicates"]) == (9, "random:1", "keep")
    assert found["problem"].startswith("a: 0 users")
    with pytest.raises(UserError, match="--ties 'x': must be file, or random:SEED"):
        command.main([str(path), "--ties", "x"])


def test_the_command_prints_what_is_safe(write, capsys):
    path = write("a.csv", CSV)
    command.main([str(path), "--k-core", "3"])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f"{path}: csv, fields between ;"
    table = {line.partition("  ")[0]: line.split()[1:] for line in lines}
    assert [line.split(maxsplit=1) for line in lines[2:7]] == [
        ["user", "user"],
        ["item", "item"],
        ["page\\x1b[31m"],
        ["when", "time"],
        ["seen_at", "looks like a time, not used"],
    ]
    assert table["events"] == ["18", "18"]


def test_a_registered_frame_is_read_once(monkeypatch):
    reads = []

    def read():
        reads.append(0)
        return [row[0] for row in ROWS], [row[1] for row in ROWS], [row[2] for row in ROWS]

    monkeypatch.setitem(DATASETS, "mine", Source(50, read=read))
    found = description_of("mine", preparation=Preparation(k_core=3))
    randomly = replace(found.preparation, ties="random:1")
    assert found.prepare(randomly).items_T.size == found.after.events == 18
    assert (found.files, found.layout, reads) == ((), None, [0])
