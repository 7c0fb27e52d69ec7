import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojax.data import Dataset, global_time_split, leave_one_out
from echojax.errors import UserError


def dataset_of(lengths, times=None, time="source"):
    total = sum(lengths)
    return Dataset(
        name="x",
        items_T=np.arange(1, total + 1, dtype=np.int32),
        times_T=np.arange(total, dtype=np.float64) if times is None else np.array(times, float),
        offsets=np.cumsum([0, *lengths]),
        user_ids=np.arange(len(lengths)).astype(str),
        item_ids=np.arange(total + 1).astype(str),
        fingerprint={"time": time},
    )


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


times_strategy = st.lists(
    st.lists(st.integers(0, 30), min_size=1, max_size=9).map(sorted), min_size=2, max_size=9
)


@given(times_strategy)
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
    with pytest.raises(UserError, match="leaves no train examples"):
        leave_one_out(dataset_of([3, 3]), 5)


@pytest.mark.parametrize("max_len", [0, -1])
def test_impossible_length(max_len):
    with pytest.raises(UserError, match=f"--max-len {max_len}: must be at least 1"):
        leave_one_out(dataset_of([5, 5]), max_len)
