import tracemalloc
import zipfile

import polars as pl
import pytest

from echojax.data import item_titles
from echojax.data.titles import read_titles
from echojax.errors import UserError


def test_the_item_file_beside_a_file_of_interactions(write, tmp_path):
    text = (
        "item_id:token\tclass:token\tname:token_seq\tyear:token\n7\tx\tDix août\t1994\n8\ty\tB\t\n"
    )
    write("log.item.gz", text)
    found = item_titles("ml-1m", data_path=tmp_path / "log.inter.gz")
    assert found == {"7": "Dix août (1994)", "8": "B"}


def test_only_newlines_end_a_title(write, tmp_path):
    spaces = ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1e"]
    lines = [f"{n}\tA{space}B {n}" for n, space in enumerate(spaces)]
    write("log.item", "\r\n".join(["\ufeffitem_id:token\ttitle:token_seq", *lines, ""]))
    found = item_titles("x", data_path=tmp_path / "log.inter")
    assert found == {str(n): f"A{space}B {n}" for n, space in enumerate(spaces)}


def test_movielens_as_published(tmp_path):
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/movies.dat", "1::Misérables, Les (1995)::Drama\n".encode("latin-1"))
    (tmp_path / "u.item").write_text("1|Toy Story (1995)|01-Jan-1995||http://x|0|0\n")
    assert item_titles("ml-1m", data_dir=tmp_path) == {"1": "Misérables, Les (1995)"}
    assert item_titles("ml-100k", data_dir=tmp_path) == {"1": "Toy Story (1995)"}


def test_a_small_file_takes_little_memory(tmp_path):
    (tmp_path / "u.item").write_text("1|Toy Story (1995)|01-Jan-1995||http://x|0|0\n")
    tracemalloc.start()
    try:
        item_titles("ml-100k", data_dir=tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**25


def test_none_where_there_are_none(tmp_path):
    assert item_titles("ml-1m", data_dir=tmp_path) == {}
    assert item_titles("x", data_path=tmp_path / "log.csv") == {}
    (tmp_path / "log.item").write_text("item_id:token\tprice:float\n7\t2\n")
    assert item_titles("x", data_path=tmp_path / "log.inter") == {}


def test_a_line_without_its_title_is_named(tmp_path):
    (tmp_path / "log.item").write_text("item_id:token\ttitle:token_seq\n7\ta\n8\n")
    with pytest.raises(UserError, match="line 3"):
        item_titles("x", data_path=tmp_path / "log.inter")


def test_real_titles(real_data):
    assert item_titles("ml-1m", data_dir=real_data)["1"] == "Toy Story (1995)"


def test_titles_that_expand_without_end_are_refused(write, tmp_path, monkeypatch):
    monkeypatch.setattr("echojax.data.text.ALWAYS_ALLOWED_BYTES", 1 << 20)
    bomb = b"item_id:token\tname:token\n" + b"1\tx\n" * (1 << 19)
    write("log.item.gz", bomb)
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-1m/movies.dat", bomb)
    with pytest.raises(UserError, match="expands to more than 100 times its size"):
        item_titles("log", data_path=tmp_path / "log.inter")
    with pytest.raises(UserError, match="longer than 1 MiB"):
        item_titles("ml-1m", data_dir=tmp_path)


TABLES = {
    "csv": 'id,title,brand\n1,"Alien, the film",\n2,Brazil,B\n1,again,C\n',
    "tsv": "brand\ttitle\titem_id\n\tAlien, the film\t1\nB\tBrazil\t2\n",
    "inter": "item_id:token\ttitle:token_seq\tbrand:token\n1\tAlien, the film\t\n2\tBrazil\tB\n",
    "jsonl": '{"asin": 1, "title": "Alien, the film", "brand": ""}\n'
    '{"asin": "2", "title": "Brazil", "brand": "B"}\n',
}


@pytest.mark.parametrize("kind", [*TABLES, "parquet"])
def test_a_table_of_items(kind, tmp_path):
    path = tmp_path / "table"
    if kind == "parquet":
        names = ["Alien, the film", "Brazil"]
        pl.DataFrame({"item": [1.0, 2.0], "title": names, "brand": [None, "B"]}).write_parquet(path)
    else:
        path.write_text(TABLES[kind])
    assert read_titles(path) == {"1": "Alien, the film", "2": "Brazil"}
    both = {"1": "Alien, the film", "2": "Brazil · B"}
    assert read_titles(path, titles=["title", "brand"]) == both
    assert read_titles(path, titles=["brand"]) == ({"1": "C"} if kind == "csv" else {}) | {"2": "B"}


def test_a_year_that_was_a_float(write):
    assert read_titles(write("x.csv", "item,title,year\n1,A,1999.0\n2,B,\n")) == {
        "1": "A (1999)",
        "2": "B",
    }


def test_titles_are_one_line(write):
    path = write("items.csv", 'item,title\r\n1,"One, \r\n two\tthree"\r\n2,Four\r\n')
    assert read_titles(path) == {"1": "One, two three", "2": "Four"}


BAD = {
    "no title": ("item,brand\n1,x\n", {}, "no title column among item, brand; name it with --ti"),
    "no item": ("what,title\n1,x\n", {}, "no item column among what, title; the first line mu"),
    "unknown": ("item,title\n1,x\n", {"titles": ["titel"]}, "no column 'titel' for --title-colum"),
    "twice": ("item,title,title\n1,x,y\n", {}, "two columns are named 'title'; rename one of th"),
    "empty": ("item,title\n1,\n", {}, "has no titles; check --title-column"),
    "fields": ("item,title\n1,x\n2\n", {}, "line 3: 1 fields where 2 are expected"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_table_without_titles_is_named(case, write):
    text, columns, message = BAD[case]
    path = write("items.csv", text)
    with pytest.raises(UserError) as raised:
        read_titles(path, **columns)
    assert f"items.csv: {message}" in str(raised.value).replace(", line", ": line")
    assert case != "no item" or read_titles(path, item="what")["1"]
