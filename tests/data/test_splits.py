from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojax.data import cold_items_split, global_time_split, leave_one_out
from echojax.errors import UserError
from tests.data import dataset_of, users_times


@given(st.lists(st.integers(1, 8), min_size=1).filter(lambda lengths: max(lengths) >= 4))
def test_leave_one_out(lengths):
    dataset = dataset_of(lengths)
    split = leave_one_out(dataset, 50)
    train, valid, test = [], [], []
    for first, length in zip(dataset.offsets, lengths, strict=False):
        rest = length - 2 if length >= 3 else length
        train += range(first + 1, first + rest)
        valid += [first + length - 2] * (length >= 3)
        test += [first + length - 1] * (length >= 3)
    assert split.train.target_M.tolist() == train
    assert split.valid.target_M.tolist() == valid
    assert split.test.target_M.tolist() == test
    assert split.facts == {
        "split": "leave-one-out",
        "short_users": sum(length < 3 for length in lengths),
    }
    for part in split[:3]:
        assert (dataset.offsets[part.user_M] == part.start_M).all()
        assert (part.start_M < part.target_M).all()
        assert (part.target_M < dataset.offsets[part.user_M + 1]).all()
        # Every earlier item is shown, the test's history with the item that validates.
        shown = part.gather(np.arange(len(part)))
        for m, row in enumerate(shown["item_ids"]):
            history = dataset.items_T[part.start_M[m] : part.target_M[m]]
            assert row[row > 0].tolist() == history.tolist()
            assert history[-1] == shown["targets"][m] - 1


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=12).filter(lambda n: max(n) >= 6),
    st.integers(0, 99),
)
def test_cold_items_are_nowhere_but_among_the_targets_of_testing(lengths, seed):
    dataset = dataset_of(lengths)
    items = np.random.default_rng(seed).integers(1, 9, sum(lengths)).astype(np.int32)
    dataset = replace(dataset, items_T=items, item_ids=np.arange(9).astype(str))
    cold = set((1 + np.random.default_rng(seed).choice(8, 2, replace=False)).tolist())
    users = np.split(items, np.cumsum(lengths)[:-1])
    expected = []  # user, history, target
    warm = [[item for item in user if item not in cold] for user in users]
    expected += [(u, w[:-1], w[-1]) for u, w in enumerate(warm) if len(w) >= 3]
    for u, user in enumerate(users):
        places = [place for place, item in enumerate(user) if item in cold]
        before = [item for item in user[: places[-1]] if item not in cold] if places else []
        if before:
            expected.append((u, before, user[places[-1]]))
    try:
        split = cold_items_split(dataset, 50, share=0.25, seed=seed)
    except UserError:  # it leaves a part empty
        return
    for part in (split.train, split.valid):
        assert not cold & set(np.unique(part.gather(np.arange(len(part)))["item_ids"]).tolist())
        assert not cold & set(part.items_T[part.target_M].tolist())
    test = split.test
    found = [
        (int(user), test.items_T[start:target].tolist(), test.items_T[target])
        for user, start, target in zip(test.user_M, test.start_M, test.target_M, strict=True)
    ]
    assert found == expected
    assert split.facts["cold_targets"] == sum(target in cold for *_, target in found)


@given(users_times.filter(lambda times: len(times) > 1))
def test_global_time_split(times):
    flat = [time for user in times for time in user]
    dataset = dataset_of([len(user) for user in times], flat)
    first, second = np.quantile(flat, [0.8, 0.9], method="inverted_cdf")
    parts = {"train": [], "valid": [], "test": []}
    cold = 0
    for begin, user in zip(dataset.offsets, times, strict=False):
        for position, time in enumerate(user):
            part = "train" if time < first else "valid" if time < second else "test"
            if position:
                parts[part].append(begin + position)
            elif part != "train":
                cold += 1
    if not all(parts.values()):
        empty = next(part for part, targets in parts.items() if not targets)
        with pytest.raises(UserError, match=f"--split global-time leaves no {empty} examples"):
            global_time_split(dataset, 5)
        return
    split = global_time_split(dataset, 5)
    assert {part: getattr(split, part).target_M.tolist() for part in parts} == parts
    assert split.facts["thresholds"] == [first, second]
    assert split.facts["cold_targets"] == cold
    latest = dataset.times_T[split.train.target_M].max()
    assert latest < dataset.times_T[split.valid.target_M].min()


def test_positions_are_no_times():
    with pytest.raises(UserError, match="x has only positions; use --split leave-one-out"):
        global_time_split(dataset_of([5, 5], time="position"), 5)


def test_nothing_to_train_on():
    with pytest.raises(UserError, match="--split leave-one-out leaves no train examples"):
        leave_one_out(dataset_of([3, 3]), 5)
    with pytest.raises(UserError, match="--split cold-items leaves no valid examples"):
        cold_items_split(dataset_of([2, 2]), 5)


@pytest.mark.parametrize("max_len", [0, -1])
def test_impossible_length(max_len):
    with pytest.raises(UserError, match=f"--max-len {max_len}: must be at least 1"):
        leave_one_out(dataset_of([5, 5]), max_len)
