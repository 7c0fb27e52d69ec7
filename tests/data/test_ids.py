import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojax.data.ids import IdCodes
from echojax.data.spans import split_fields
from echojax.data.text import Block, TextFile
from echojax.errors import UserError

names = st.text(
    st.characters(exclude_characters="\t\n\r\0", codec="utf-8"), min_size=1, max_size=30
)
few_names = st.sampled_from(["a", "b", "ab", "é", "12345678", "123456789", "1234567 ", "x" * 255])


def codes_of(blocks):
    ids = IdCodes("item id")
    for values in blocks:
        block = Block(TextFile("f"), "".join(f"{value}\n" for value in values).encode(), 1)
        ids.add(block, split_fields(block, "\t", 1)[:, 0])
    return ids


@given(st.lists(st.lists(names | few_names, min_size=1), min_size=1))
def test_codes_are_in_order_of_first_appearance_over_blocks(blocks):
    values = [value for block in blocks for value in block]
    ids = codes_of(blocks)
    codes, found = ids.finish()
    assert ids.count == len(values)
    assert found.tolist() == list(dict.fromkeys(values))
    assert found[codes].tolist() == values
    assert codes.dtype == np.int32


@pytest.mark.parametrize("number", [2**63, 2**64, 10**30, -(10**25)])
def test_numbers_beyond_64_bits_are_refused_with_their_line(number):
    with pytest.raises(UserError, match="line 3: the item id is a number that does not fit 64"):
        codes_of([["5", "6", str(number), "7"]])


def test_long_ids_that_fit_or_are_names():
    values = [str(2**63 - 1), f"i{10**30}", "0" * 40 + "7", "-" + str(2**63 - 1)]
    assert codes_of([values]).finish()[1].tolist() == values


def test_ids_that_share_a_hash_stay_apart(monkeypatch):
    monkeypatch.setattr("echojax.data.ids.mix64", lambda x: x & np.uint64(3))
    values = [f"long user id {i % 7}" for i in range(50)]
    codes, found = codes_of([values[:20], values[20:]]).finish()
    assert found[codes].tolist() == values
    assert len(found) == 7


def test_empty_and_huge_ids_are_refused():
    ids = IdCodes("user id")
    block = Block(TextFile("f"), b"1\t2\n\t3\n", 1)
    with pytest.raises(UserError, match="line 2: empty user id"):
        ids.add(block, split_fields(block, "\t", 2)[:, 0])
    with pytest.raises(UserError, match="line 2: item id of 256 bytes; at most 255"):
        codes_of([["a", "x" * 256]])
