import json

import pytest

from echojax.serving.history_file import read_histories
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


def test_histories_are_parted_at_blanks_and_tabs_only(tmp_path):
    path = tmp_path / "h.txt"
    path.write_bytes("ann film\xa04\tfilm\u20285  x\x85y\r\n\n \nbob\n".encode())
    assert list(read_histories(path)) == [
        ("ann", ["film\xa04", "film\u20285", "x\x85y"]),
        ("bob", []),
    ]
