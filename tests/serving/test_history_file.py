"""Ids that are typed, and files of histories: answered, cut off and continued, one writer only."""

import errno
import fcntl
import gzip
import itertools
import json
import os
import stat
import sys

import pytest

from echojax import Recommender, lock
from echojax.errors import UserError
from echojax.serving.history_file import answer_file, read_histories
from echojax.serving.item_ids import typed_ids

TYPED = {
    "1193,661 914;5": ["1193", "661", "914", "5"],
    " film\xa04, film\xa05 ": ["film\xa04", "film\xa05"],
    '["a b", "c,d", 7, "[x]"]': ["a b", "c,d", "7", "[x]"],
    "[x] [y": ["[x]", "[y"],
    "[1.5]": ["[1.5]"],
    "": [],
}


@pytest.mark.parametrize("text", TYPED)
def test_typed_ids(text):
    assert typed_ids(text) == TYPED[text]


def test_any_ids_can_be_typed_as_a_list():
    ids = ["a b", "c,d", ";", " ", "\xa0", '"', "[", "\u2028"]
    assert typed_ids(json.dumps(ids)) == ids


def test_half_a_character_is_no_id():
    assert typed_ids(r'["\ud83d\ude00"]') == ["😀"]
    with pytest.raises(UserError, match=r"item '\\ud83d' holds half of a character"):
        typed_ids(r'["i1", "\ud83d"]')


def test_histories_are_parted_at_blanks_and_tabs_only(tmp_path):
    path = tmp_path / "h.txt"
    path.write_bytes("ann film\xa04\tfilm\u20285  x\x85y\r\n\n \nbob\n".encode())
    assert list(read_histories(path)) == [
        ("ann", ["film\xa04", "film\u20285", "x\x85y"]),
        ("bob", []),
    ]


def test_tables_and_json_are_no_histories(tmp_path):
    path = tmp_path / "h.txt"
    tables = ["5,19,16", '{"user": "5", "items": ["19"]}', '[["5", "19"]', "user,item,time"]
    tables += ["5; 19; 1600000000", "5\t19\t4\t1600000000", "5, 19, 4, 1600000000", "user item"]
    tables += ["user_id:token\titem_id:token", "5|19", "5 [19, 16]", "5: 19 16", '"5" "19"']
    for line in tables:
        path.write_text(f"\n{line}\n6,1,2\n")
        with pytest.raises(UserError, match=r"h\.txt, line 2: '.*' is no history; write lines of"):
            list(read_histories(path))
    path.write_bytes(b"5 19\r6 1\r")
    with pytest.raises(UserError, match=r"h\.txt, line 1: carriage returns without line feeds"):
        list(read_histories(path))
    path.write_text("# users\n5 19\n# 7\n")
    assert list(read_histories(path)) == [("5", ["19"]), ("#", ["7"])]
    path.write_text("{5} 19\n[6] a,b\nx,y\n")
    assert [user for user, _ in read_histories(path)] == ["{5}", "[6]", "x,y"]


@pytest.fixture(scope="module")
def recommender(ring_run):
    return Recommender.load(ring_run, batch_size=48)


@pytest.fixture
def histories(tmp_path):
    """Return a compressed file of 2,500 histories, of which one is empty, after a blank line."""
    lines = [f"u{n} i{n % 30} i{(n + 1) % 30}" for n in range(2500)]
    lines[7] = "\nu7"
    path = tmp_path / "histories.txt.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def answered(recommender, histories, output):
    """Answer a file; return the contents of what was written."""
    *_, done = answer_file(recommender, histories, output, 3)
    assert done == output.read_bytes().count(b"\n")
    return output.read_bytes()


def test_a_file_goes_on_where_it_was_cut_off(recommender, histories, tmp_path):
    whole = answered(recommender, histories, tmp_path / "whole")
    answers = [json.loads(line) for line in whole.splitlines()]
    assert [answer["user"] for answer in answers] == [f"u{n}" for n in range(2500)]
    assert answers[7]["by"] == "popularity"
    assert answers[3]["items"][0] == "i5"

    progress = answer_file(recommender, histories, tmp_path / "cut", 3)
    assert [next(progress), next(progress)] == [0, 1024]
    progress.close()
    assert not (tmp_path / "cut").exists()
    (partial,) = tmp_path.glob(".cut.*.partial")
    with partial.open("ab") as file:
        file.write(b'{"user": "u10')  # a line that a kill cut off
    progress = answer_file(recommender, histories, tmp_path / "cut", 3)
    assert next(progress) == 1024 - 1024 % 48
    assert list(progress)[-1] == 2500
    assert (tmp_path / "cut").read_bytes() == whole
    assert not list(tmp_path.glob(".cut*"))


@pytest.mark.parametrize("locks", [True, False])
def test_two_equal_requests_at_once_are_one(recommender, histories, tmp_path, monkeypatch, locks):
    def fails(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    if not locks:  # an NFS mounted without
        monkeypatch.setattr(fcntl, "flock", fails)
        numbers = map(str, itertools.count())
        monkeypatch.setattr(lock, "_boot_and_process_ids", lambda: (next(numbers), ""))
        monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.1)
    first = answer_file(recommender, histories, tmp_path / "out", 3)
    next(first)
    next(first)
    with pytest.raises(UserError, match=r"process .*writes --output .*; wait for it"):
        next(answer_file(recommender, histories, tmp_path / "out", 3))
    assert list(first)[-1] == 2500
    assert len((tmp_path / "out").read_bytes().splitlines()) == 2500


def test_an_output_that_appears_meanwhile_is_not_replaced(recommender, histories, tmp_path):
    progress = answer_file(recommender, histories, tmp_path / "out", 3)
    next(progress)
    (tmp_path / "out").write_text("another's")
    with pytest.raises(UserError, match="out exists"):
        list(progress)
    assert (tmp_path / "out").read_text() == "another's"


@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_a_planted_link_is_never_followed(recommender, histories, tmp_path, plant):
    progress = answer_file(recommender, histories, tmp_path / "out", 3)
    next(progress)
    next(progress)
    progress.close()
    (partial,) = tmp_path.glob(".out.*.partial")
    partial.unlink()
    (tmp_path / "precious").write_text("mine")
    plant(tmp_path / "precious", partial)
    with pytest.raises(UserError, match=r"\.partial is .*; delete it"):
        list(answer_file(recommender, histories, tmp_path / "out", 3))
    assert (tmp_path / "precious").read_text() == "mine"


def test_the_users_mask_is_kept(recommender, tmp_path):
    (tmp_path / "histories").write_text("u1 i3\n")
    before = os.umask(0o077)
    try:
        answered(recommender, tmp_path / "histories", tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_a_failed_request_leaves_nothing(recommender, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"u1 i3\nu2 \xff\n")
    with pytest.raises(UserError, match="is not UTF-8"):
        list(answer_file(recommender, tmp_path / "bad.txt", tmp_path / "out", 3))
    assert os.listdir(tmp_path) == ["bad.txt"]


def test_long_histories_of_few_items_take_little_memory(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("u " + " ".join(f"i{n % 30}" for n in range(10_000)))
    ((_, items),) = read_histories(path)
    assert len({id(item) for item in items}) == 30
    assert sys.getsizeof(items) < 100_000
