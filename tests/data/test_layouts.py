"""A layout is recognised where every column fits its role, and asked for where it does not."""

import random
from itertools import product

import pytest

from echojax.errors import UserError, one_line
from tests.data import histories, in_time_order, read

_RNG = random.Random(0)
ROWS = [
    (_RNG.randrange(9), _RNG.randrange(7), _RNG.randrange(1, 6), 16 * 10**8 + _RNG.randrange(10**7))
    for _ in range(60)
]


def lines(pattern, header=""):
    rows = "".join(pattern.format(u=u, i=i, r=r, t=t) + "\n" for u, i, r, t in ROWS)
    return header + "\n" * bool(header) + rows


RIGHT = in_time_order((str(user), str(item), time) for user, item, _, time in ROWS)

CLEAR = {
    "three columns": ("a.csv", lines("{u},{i},{t}")),
    "time before rating": ("a.txt", lines("{u}|{i}|{t}|{r}")),
    "milliseconds": ("a.csv", lines("{u};{i};{r};{t}000")),
    "tabs": ("log", lines("{u}\t{i}\t{r}.0\t{t}")),
    "colons": ("log", lines("{u}::{i}::{t}::{r}")),
    "a header with other columns": ("a.csv", lines("x,{t},{i},{u}", "note,when,item,user")),
    "a note of Excel": ("a.csv", lines("{u};{i};{t}", "\ufeffsep=;\r\nuser;item;time")),
    "a carriage return": ("a.csv", lines("{u}\r,{i},{t}", "user,item,time")),
    "a header below comments": ("a.csv", lines("{u},{i},{t}", "# mine\n#\nuser,item,time")),
    "a header in a comment": ("a.tsv", lines("{u}\t{i}\t{t}", "# by x\n# user\titem\ttime")),
    "a header with marks": ("a.csv", lines("{u},{i},{t}", "\ufeff\ufeffuser\xa0,\u200bitem,time")),
    "a title that looks like nothing": (
        "a.tsv",
        lines("{u}\tA {r}, b\t{i}\t{t}", "uid\tt\tsku\tts"),
    ),
}


@pytest.mark.parametrize("case", CLEAR)
def test_clear_layouts_are_read(case, write):
    source = read(write(*CLEAR[case]))
    assert histories(source) == RIGHT
    headless = not case.startswith("a ")
    assert headless == any("no header: the columns are read as user" in n for n in source.notes)


UNCLEAR = {
    "time second": (lines("{u},{t},{i},{r}"), "--columns user,time,item,_"),
    "time first": (lines("{t},{u},{i}"), "--columns time,user,item"),
    "two times": (lines("{u},{i},{t},{t}"), "not recognised from"),
    "no time": (lines("{u},{i},{r}"), "--columns user,item,_"),
    "five columns": (lines("{u},{i},{r},{r},{t}"), "--columns user,item,_,_,time"),
    "five by tabs": (lines("{u}\t{i}\t{r}\t{r}\t{t}"), "--columns user,item,_,_,time"),
    "five by blanks": (lines("{u} {i} {r} {r} {t}"), "--columns user,item,_,_,time"),
    "four by blanks": (lines("{u} {i} {r} {t}"), "--columns user,item,_,time"),
    "words and a time": (lines("{u} the film {i} {t}").replace("film 3", "3"), "not recognised"),
    "a title in two columns": (lines("{u}\tfilm {i}").replace("film 3", "3"), "not recognised"),
    "an item that is no rating": (lines("{u},{r},2145300{i},{t}"), "--columns user,item,_,time"),
    "a number with a point first": (lines("{r}.5,{u},{t}"), "not recognised from"),
    "baskets": (lines("{u},{i}").replace("3\n", "3,4\n"), "not recognised from"),
    "another header": (lines("{u},{i},{t}", "who,what,day"), "no user column among who, what, day"),
    "header of blanks": (lines("{u} {i}", "user_id item_id"), "blanks stand between the names"),
    "a page": ("<html>\n<a>\n", "is a web page; download the file itself"),
    "an array": ('[{"user": 1}]\n', "is a JSON array; write one object a line"),
    "old Macintosh": (lines("{u},{i},{t}", "user,item,time").replace("\n", "\r"), "mac2unix"),
    "UTF-16": (lines("{u},{i},{t}").encode("utf-16-be"), "looks like UTF-16 text"),
    "one name twice": (lines("{u},{i},{i}", "user,item,item"), "two columns are named 'item'"),
    "names alike": (lines("{u},{i},{i}", "user,item_id,Item ID"), "have names alike; choose one w"),
    "lists": (
        lines('{u},"[{i}, 5]"', "user,item"),
        "column 'item' holds lists such as [",
    ),
    "arrays of a database": (
        lines('{u},"{{{i},5}}"', "user,item"),
        "column 'item' holds lists such as {",
    ),
    "lists without brackets": (
        lines('{u},"{i},{r}"', "user,item"),
        "column 'item' holds lists such as 6,4; write",
    ),
    "words in quotes": (lines('"{u}" "{i}"'), "format not recognised from"),
    "words with times": ("1 2@16 3@17.5\n2 3@18 4@20 5@21\n", "format not recognised from"),
    "numbers of items first": ("2 5 6\n1 7\n3 5 8 9\n", "format not recognised from"),
    "words and times of day": ("0|2\n6\t9\t10:38:00\n7\t8\t9:39:00\n", "format not recognised fr"),
    "a dump in one line": (
        "INSERT INTO r VALUES " + "(1,2,3)," * 9999,
        "line 1: has 29,998 fields",
    ),
    "single quotes": (lines("'{u}','{i}'", "'user','item'"), "its fields are in single quotes; "),
    "a time that is none": (
        lines("{u},{i},{r},{t}", "user,item,time,date"),
        "columns 'time' and 'date' may be the time, and the first looks like none; choose with --t",
    ),
    "a time of day": (
        lines("{u},{i},0{r}:05,2020-09-1{r}", "user,item,time,day"),
        "columns 'time' and 'day' may be the time",
    ),
    "lists after a tab": (lines("{u}\t{i},{r}"), "format not recognised from"),
    "lists in brackets": ("1 [2, 3]\n2 [3, 4, 5]\n", "format not recognised from"),
    "arrays": ("1 [2 3]\n2 [3 4 5]\n", "format not recognised from"),
    "counts": ("1 2:1 3:4.5\n2 3:1\n", "format not recognised from"),
    "colons": ("1: 2 3\n2: 3 1 4\n", "format not recognised from"),
    "pairs with a header": (lines("{u} {i}", "from to"), "format not recognised from 'from to'"),
    "sequences": (
        "user_id:token\titem_id_list:token_seq\titem_id:token\n1\t2 3\t4\n",
        "line 1: 'item_id_list:token_seq' holds a whole history in each row; write a row for each",
    ),
    "untyped": (lines("{u},{i}", "user_id,item_id"), "no tab in the header"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_unclear_layouts_are_asked_for_with_the_first_rows(case, write):
    text, message = UNCLEAR[case]
    with pytest.raises(UserError) as raised:
        read(write("x.inter" if case == "untyped" else "x.txt", text))
    assert message in str(raised.value)
    if "--columns" in message:
        assert all(repr(line) in str(raised.value) for line in text.split("\n")[:3])
        told = str(raised.value).partition("--columns ")[2].split()[0]
        source = read(write("x.txt", text), names=told)
        assert source.frame.height == len(ROWS)


@pytest.mark.parametrize("data_format", [None, "csv"])
def test_columns_told_for_a_file_without_a_header(data_format, write):
    path = write("x.dat", lines("{t},{i},x,{u}"))
    assert histories(read(path, data_format, names="time, item,_, user")) == RIGHT
    other = read(path, data_format, names="a,b,c,d", user="d", item="b", time="a")
    assert histories(other) == RIGHT


def test_amazon_ratings_with_the_item_first(write):
    rows = lines("{i:010},A{u:012X},{r}.0,{t}")
    found = read(write("Toys.csv", rows))
    assert histories(found) == {
        f"A{int(user):012X}": [f"{int(item):010}" for item in items]
        for user, items in RIGHT.items()
    }
    assert found.notes[0] == "no header: the columns are read as item, user, rating, time"
    for pattern in ("A{u:012X},{i:010},{r},{t}", "{u:010},{i:010},{r},{t}"):
        note = read(write("x.csv", lines(pattern))).notes[0]
        assert note == "no header: the columns are read as user, item, rating, time"


def test_comments_before_pairs(write):
    text = "% bip\n%% 60 rows\n# user item\n" + lines("{u} {i}")
    assert read(write("x", text)).frame.height == len(ROWS)
    with pytest.raises(UserError, match="x, line 64: 3 words where"):
        read(write("x", text + "1 2 3\n"))


FOUR = lines("{u},{i},{r},{t}")
HEADED = lines("{u},{i},{t}", "user,item,time")
DATED = lines("{u},{i},17.09.2020 02:37", "user,item,date")
BLANKS = lines("{u} {i}", "user item")
BAD_FLAGS = [
    (FOUR, {"names": "user,item"}, "--columns names 2 columns and the first row has 4: '"),
    (FOUR, {"names": "who,item,_,time"}, "no user column among who, item, _, time"),
    (FOUR, {"names": "user,user,item,time"}, "two columns are named 'user'"),
    (
        FOUR,
        {"names": "user,item", "data_format": "jsonl"},
        "--columns is for tables, not for --data-format jsonl",
    ),
    (HEADED, {"names": "a,b,_"}, "line 1: 'user,item,time' is a header; drop --columns"),
    (HEADED, {"names": "user,item,time"}, "line 1: 'user,item,time' is a header; drop --columns"),
    (
        lines("{u},{i},{r}", "who,what,rating"),
        {"names": "user,item,_"},
        "line 1: 'who,what,rating' is a header; drop --columns",
    ),
    (BLANKS, {"data_format": "pairs"}, "line 1: 'user item' is a header; delete the line"),
    (BLANKS, {"data_format": "histories"}, "line 1: 'user item' is a header; delete the line"),
    (HEADED, {"time": "when"}, "no column 'when' for --time-column; the columns are user, i"),
    (HEADED, {"user": "item"}, "column 'item' is named for two purposes; name another"),
    (HEADED, {"data_format": "cvs"}, "unknown --data-format 'cvs'; did you mean 'csv'"),
    (HEADED, {"data_format": "pairs", "user": "user"}, "pairs has no column names"),
    (
        lines("{u}::{i}::{r}::{t}"),
        {"time": "when"},
        "ratings.dat has no column names; drop the flags that",
    ),
    (DATED, {"time_format": "%d.%m.%Y"}, "line 2: time '17.09.2020 02:37' does not fit"),
    (
        lines("{u},{i}", "user,item"),
        {"time_format": "%d.%m.%Y"},
        "no time column; name it with --time-column",
    ),
]


@pytest.mark.parametrize(("text", "flags", "message"), BAD_FLAGS)
def test_flags_that_do_not_fit_the_file(text, flags, message, write):
    with pytest.raises(UserError) as raised:
        read(write("x.csv", text), **flags)
    assert message in str(raised.value)


def test_flags_that_fit_the_file(write):
    empty_first = "1,2,\n1,3,5\n2,3,4\n"
    assert read(write("y.csv", empty_first), names="user,item,_").frame.height == 3
    found = read(write("x.csv", DATED), time_format="%d.%m.%Y %H:%M")
    assert found.frame["time"][0] == 1600310220


@pytest.mark.parametrize("name", ["date", "datetime", "created_at", "event_time", "t_dat", "when"])
def test_columns_that_are_times_by_name_and_value(name, write):
    text = lines("{u},{i},{t}", f"user,item,{name}")
    assert histories(read(write("x.csv", text))) == RIGHT
    source = read(write("x.csv", lines("{u},{i},{r}", f"user,item,{name}")))
    assert "time" not in source.frame.columns
    (note,) = source.notes
    assert f"column '{name}' looks like a time and is not used (the order of lines)" in note


def test_a_time_of_day_is_preferred_to_a_date(write):
    text = lines("{u},{i},20200917,{t}000", "user_id,video_id,date,time_ms")
    source = read(write("x.csv", text))
    assert histories(source) == RIGHT
    assert (
        "column 'date' looks like a time and is not used (times are 'time_ms')" in source.notes[1]
    )


def test_a_time_under_another_name_is_named(write):
    dates = [
        "{t}",
        "1{r}/9/20",
        "0{r}.09.2020 10:15",
        "Thu Sep 1{r} 10:00:00 2020",
        "2020年9月{r}",
    ]
    for name, value in [("TRANS_DT", "{r}"), *product(["visited", "время", ""], dates)]:
        source = read(write("x.csv", lines("{u},{i}," + value, f"user,item,{name}")))
        assert "time" not in source.frame.columns
        assert f"column '{name}' looks like a time" in source.notes[0]
    assert not read(write("x.csv", lines("{u},{i},1{r}.10.15,No {r}", "user,item,a,b"))).notes
    source = read(write("x.csv", lines("{u},{i},{t},{t}", "user,item,timestamp,update\x1bd")))
    assert "warning: column 'update\\x1bd' looks like a time and is not used" in source.notes[1]


def test_missing_ids(write):
    words = ["", "NA", "N/A", "n/a", "#REF!", "NULL", "-", "NaN", "nan", "None", "(not set)", "\\N"]
    text = "user,item,ts\n" + "".join(f"u{n % 3},{word},{n}\n" for n, word in enumerate(words))
    text += "NA,a,1\nu2,b,2\nu1,a,3\nNa,none,4\n"
    with pytest.raises(UserError) as raised:
        read(write("x.csv", text))
    message = one_line(raised.value)
    assert "x.csv, line 2: empty item id; 1 of 16 rows have no user id (NA) and 12 of 16" in message
    assert message.endswith("leave them out with --missing-ids drop")
    with pytest.raises(UserError, match="line 2: empty item id"):
        read(write("x.csv", text), missing="keep")
    found = read(write("x.csv", text), missing="drop")
    assert histories(found) == {"u2": ["b"], "u1": ["a"], "Na": ["none"]}
    kept = read(write("x.csv", text.replace("u0,,0", "u0,x,0")), missing="keep")
    assert "NULL" in kept.frame["item"].cast(str).to_list()
    with pytest.raises(UserError, match="no interactions are left; 2 of 2 rows have no user id"):
        read(write("x.csv", "user,item\n,1\nNA,2\n"), missing="drop")


def test_rows_without_an_id_may_lack_the_time_too(write):
    path = write("x.csv", "user,item,time\nu1,,\nu2,b,5\nu1,,NULL\nu2,a,4\n")
    with pytest.raises(UserError, match="line 2: empty item id; 2 of 4 rows have no item id"):
        read(path)
    assert histories(read(path, missing="drop")) == {"u2": ["a", "b"]}
    with pytest.raises(UserError, match=r"line 4: time '' .* but missing"):
        read(write("x.csv", "user,item,time\nu1,,\nu2,b,5\nu1,c,\n"), missing="drop")
