import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojax.data.spans import parse_numbers, split_fields, split_words, token_words, words_as_bytes
from echojax.data.text import Block, TextFile
from echojax.errors import UserError

FILE = TextFile("table.tsv")
tokens = st.text(st.characters(exclude_characters="\t\n\r \0", codec="utf-8"), min_size=1)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(tokens, min_size=width, max_size=width), min_size=1)
)


def texts(block, spans):
    pairs = zip(spans.starts.ravel(), spans.ends.ravel(), strict=True)
    return [block.data[start:end].decode() for start, end in pairs]


@given(tables, st.booleans())
def test_fields_are_what_split_gives(table, blank_lines):
    newline = "\n\n" if blank_lines else "\n"
    data = "".join("\t".join(row) + newline for row in table).encode()
    block = Block(FILE, data, 1)
    spans = split_fields(block, "\t", len(table[0]))
    assert spans.starts.shape == (len(table), len(table[0]))
    assert texts(block, spans) == [field for row in table for field in row]


@given(st.lists(st.lists(tokens), min_size=1), st.sampled_from([" ", "\t", "  ", " \t"]))
def test_words_are_what_split_gives(lines, gap):
    data = "".join(gap.join(line) + gap + "\n" for line in lines).encode()
    block = Block(FILE, data, 1)
    spans, line = split_words(block)
    assert texts(block, spans) == [word for words in lines for word in words]
    assert line.tolist() == [i for i, words in enumerate(lines) for _ in words]


@given(st.lists(tokens, min_size=1))
def test_words_hold_the_bytes(ids):
    block = Block(FILE, ("\n".join(ids) + "\n").encode(), 1)
    spans = split_fields(block, "\t", 1)[:, 0]
    assert words_as_bytes(token_words(block, spans)).tolist() == [name.encode() for name in ids]


@pytest.mark.parametrize(("line", "found"), [("a\tb\n", 2), ("a\tb\tc\td\n", 4), (" \n", 1)])
def test_wrong_number_of_fields_names_the_line(line, found):
    data = ("x\ty\tz\n" * 4 + line + "x\ty\tz\n" * 4).encode()
    with pytest.raises(UserError, match=f"line 14: {found} fields where 3 are expected"):
        split_fields(Block(FILE, data, 10), "\t", 3)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)))
def test_numbers_round_trip(numbers):
    block = Block(FILE, "".join(f"{number}\n" for number in numbers).encode(), 1)
    parsed = parse_numbers(block, split_fields(block, "\t", 1)[:, 0], "time")
    np.testing.assert_array_equal(parsed, np.array(numbers, np.float64))


NO_NUMBERS = ["abc", "nan", "NaN", "inf", "-inf", "1e999", "12x", "9" * 400, "2019_10", "١٢", ""]


@pytest.mark.parametrize("bad", NO_NUMBERS)
def test_what_is_no_number_names_the_line(bad):
    block = Block(FILE, f"1\tx\n2.5\tx\n{bad}\tx\n".encode(), 1)
    spans = split_fields(block, "\t", 2)[:, 0]
    with pytest.raises(UserError, match=r"line 3: time .* is not a finite number"):
        parse_numbers(block, spans, "time")
