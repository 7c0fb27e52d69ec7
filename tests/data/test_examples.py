import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from echojax.data import Examples, global_time_split, leave_one_out, windows
from echojax.errors import UserError
from tests.data import dataset_of, users_times

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


SPLITS = {"leave-one-out": leave_one_out, "global-time": global_time_split}


def plain(train, max_len):
    """Return the rows of items and of targets, users in order, the newest stretch first."""
    rows = []
    for user in np.unique(train.user_M):
        targets = train.items_T[train.target_M[train.user_M == user]].tolist()
        for stop in range(len(targets), 0, -max_len):
            shown = targets[max(0, stop - max_len) : stop]
            rows.append(([target - 1 for target in shown], shown))
    return rows


@pytest.mark.parametrize("split", SPLITS)
@given(users_times, st.integers(1, 6))
def test_stretches_hold_each_target_once_from_the_newest_on(split, times, max_len):
    dataset = dataset_of([len(user) for user in times], [*itertools.chain(*times)])
    try:
        train = SPLITS[split](dataset, max_len).train
    except UserError:  # a part without examples
        assume(False)
    stretches = windows(train)
    batch = stretches.gather(np.arange(len(stretches)))
    assert {name: array.dtype for name, array in batch.items()} == dict.fromkeys(
        ("item_ids", "lengths", "targets"), np.dtype(np.int32)
    )
    assert batch["item_ids"].shape == batch["targets"].shape == (len(stretches), max_len)
    assert stretches.lengths_M.sum() == len(train)
    for row, (items, targets) in enumerate(plain(train, max_len)):
        padding = [0] * (max_len - len(items))
        assert batch["lengths"][row] == len(items)
        assert batch["item_ids"][row].tolist() == items + padding
        assert batch["targets"][row].tolist() == targets + padding
    assert row == len(stretches) - 1


def test_rows_come_in_the_order_asked_for():
    stretches = windows(leave_one_out(dataset_of([9, 5, 12]), 4).train)
    indices = np.array([3, 0, 3])
    batch, every = stretches.gather(indices), stretches.gather(np.arange(len(stretches)))
    for name, array in batch.items():
        np.testing.assert_array_equal(array, every[name][indices])
