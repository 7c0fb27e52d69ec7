"""Benchmarks that compare models: prequential evaluation, peers, cold items."""

from pathlib import Path

import numpy as np
import pytest

import cold_items
import harness
import peers
import prequential
from echojax.data import Dataset, leave_one_out
from echojax.errors import UserError
from echojax.evaluation.baselines import rank_by
from echojax.files import read_record
from echojax.suites.results import Ranks

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_two_models_are_compared_user_by_user_on_the_same_events():
    user_M, rng = np.repeat(np.arange(40), 5), np.random.default_rng(0)
    ours, theirs = (Ranks(rng.integers(1, most, 200), user_M, user_M) for most in (12, 60))
    for row in prequential.compared(ours, theirs):
        assert (row["events"], row["users"]) == (200, 40)
        assert row["difference"] == pytest.approx(row["ours"] - row["theirs"])
        assert 0 < row["low"] < row["difference"] < row["high"]
        assert row["width"] == row["high"] - row["low"]
    with pytest.raises(UserError, match="on different users"):
        prequential.compared(ours, Ranks(theirs.rank_M, user_M[::-1], user_M))


def test_a_peer_gets_the_training_events_and_is_ranked_by_our_rule():
    histories = [[1, 2, 3, 4, 5], [2, 1], [3, 5, 2, 1]]
    frame = {
        "user": np.repeat(np.arange(3), [5, 2, 4]),
        "item": np.concatenate(histories),
        "time": np.arange(11),
    }
    dataset = Dataset.from_frame(frame, user="user", item="item", time="time", k_core=0)
    split, number = leave_one_out(dataset, 3), dataset.items_T
    found = peers.exported(dataset, split)
    # Of the two items of the second user both are training; of the others all but the last two.
    places = [0, 1, 2, 5, 6, 7, 8]
    np.testing.assert_array_equal(found["user_T"], [0, 0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found["item_T"], number[places])
    np.testing.assert_array_equal(found["test_ids_BxL"], [number[1:4], number[7:10]])
    np.testing.assert_array_equal(found["valid_targets_B"], number[[3, 9]])
    # Theirs numbers the items otherwise, and lacks one: the target of the first test user.
    number_of_V = np.array([0, 3, 1, 4, 2, 5])
    number_of_V[number[4]] = 0
    item_VxD = np.random.default_rng(0).normal(size=(6, 2))
    arrays = {"number_of_V": number_of_V, "user_BxD": np.eye(2), "item_VxD": item_VxD}
    scores = peers.scorer_of(arrays)(split.test, np.arange(2))
    known = np.flatnonzero(number_of_V)
    np.testing.assert_array_equal(scores[:, known], item_VxD[number_of_V[known]].T)
    ranked = rank_by(peers.scorer_of(arrays), split.test, 6, exclude_seen=False)
    assert ranked.rank_M[0] == 5


def test_hashed_titles_and_their_table():
    one, same_kind, other = map(
        cold_items.hashed, ("Alien · 1979 · Horror", "Jaws · 1975 · Horror", "Alien")
    )
    np.testing.assert_allclose(np.linalg.norm(one.reshape(2, -1), axis=1), 1)
    np.testing.assert_array_equal(one[64:], same_kind[64:])
    np.testing.assert_array_equal(one[:64], other[:64])
    record = read_record(RESULTS / "cold-items-ml-100k.json", harness.Document)
    page = (RESULTS / "cold-items-ml-100k.md").read_text(encoding="utf-8")
    assert cold_items.table(record.rows).markdown() in page
