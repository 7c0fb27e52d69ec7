import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from echojax.data import Examples

LENGTHS = [1, 3, 7, 2, 12]
OFFSETS = np.cumsum([0, *LENGTHS])
ITEMS = np.arange(101, 101 + OFFSETS[-1], dtype=np.int32)
TARGETS = np.array([t for a, b in itertools.pairwise(OFFSETS) for t in range(a + 1, b)])
USERS = np.searchsorted(OFFSETS, TARGETS, side="right") - 1


def examples(max_len):
    return Examples(ITEMS, OFFSETS[USERS], TARGETS, USERS.astype(np.int32), max_len)


@given(st.integers(1, 15), st.lists(st.integers(0, TARGETS.size - 1), max_size=20))
def test_gather_is_what_a_plain_loop_gives(max_len, indices):
    batch = examples(max_len).gather(np.array(indices, np.int64))
    assert batch["item_ids"].shape == (len(indices), max_len)
    assert {name: array.dtype for name, array in batch.items()} == dict.fromkeys(
        ("item_ids", "lengths", "targets"), np.dtype(np.int32)
    )
    for row, index in enumerate(indices):
        target = TARGETS[index]
        prefix = ITEMS[OFFSETS[USERS[index]] : target][-max_len:]
        padded = np.pad(prefix, (0, max_len - prefix.size))
        assert batch["item_ids"][row].tolist() == padded.tolist()
        assert batch["lengths"][row] == prefix.size >= 1
        assert batch["targets"][row] == ITEMS[target]


@given(st.lists(st.integers(0, TARGETS.size - 1), max_size=20))
def test_histories_are_whole(indices):
    items, offsets = examples(2).histories(np.array(indices, np.int64))
    assert offsets.tolist()[0] == 0
    for row, index in enumerate(indices):
        expected = ITEMS[OFFSETS[USERS[index]] : TARGETS[index]]
        assert items[offsets[row] : offsets[row + 1]].tolist() == expected.tolist()


def test_length_is_the_number_of_examples():
    assert len(examples(5)) == sum(LENGTHS) - len(LENGTHS)
