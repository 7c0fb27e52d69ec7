"""The order certificate, by hand on three users."""

from functools import partial

import numpy as np
import polars as pl
import pytest

from echojax.data import Preparation
from echojax.data.dataset import prepare
from echojax.evaluation import order
from echojax.evaluation.order import SEEDS, agreement, certify
from echojax.report.data_tables import order_table

# Two of three users have a before b in one second; u1's test item d is tied with c.
HISTORIES = {"u0": "a1 b1 c2 d3", "u1": "a1 b1 c2 d2", "u2": "b1 a1 c2 d3"}
WHOLE = Preparation(k_core=0)
ROWS = [
    (user, event[0], int(event[1])) for user, line in HISTORIES.items() for event in line.split()
]


def prepared(rows=ROWS, preparation=WHOLE):
    events = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return prepare("x", events, preparation)


def certified(rows=ROWS, preparation=WHOLE):
    return certify(partial(prepared, rows), preparation)


def test_a_certificate_by_hand():
    found = certified()
    exact, random, rounded, _ = found.orders
    assert (found.tests, found.ranked, found.timed, found.rows_in_time_order) == (3, 3, True, True)
    assert found.sha256 == prepared().fingerprint["sha256"]
    for one in (exact, rounded):  # small times are exact in float32
        assert (one.tied, one.tied_tests, one.changed_tests) == (4 / 9, 1 / 3, 0)
        # Three users have a and b at one time; of three coins the majority has .75.
        assert (one.agreeing, one.by_chance) == (2 / 3, pytest.approx(0.75))
        # Nothing follows c in training, so that ties put all four items before the target.
        assert one.markov == one.lagged_count == (1.0, pytest.approx(1 / np.log2(5)))
    assert random.tied == exact.tied
    orders = [Preparation(k_core=0, ties=f"random:{seed}") for seed in SEEDS]
    last = [prepared(preparation=one).items_T[7] for one in orders]
    changed = np.mean([item != prepared().items_T[7] for item in last])
    assert random.changed_tests == pytest.approx(changed / 3)
    used = certified(preparation=orders[1])
    assert used.sha256 == prepared(preparation=orders[1]).fingerprint["sha256"]
    assert used.orders == found.orders


def test_agreement_counts_users_once_and_their_neighbours_only():
    # u0 has a before b twice; a and c are no neighbours; x and y are tied for one user only.
    rows = [("u0", item, time) for time in (1, 2) for item in "ab"]
    rows += [("u1", item, 1) for item in "bac"] + [("u2", item, 1) for item in "xy"]
    assert agreement(prepared(rows)) == (1 / 2, pytest.approx(0.75))
    assert agreement(prepared([(user, item, n) for n, (user, item, _) in enumerate(rows)])) is None


def test_without_times_there_is_one_order():
    rows = [(user, item, n) for user in ("u0", "u1") for n, item in enumerate("abcd")]
    found = certified(rows)
    assert [(one.ties, one.tied, one.agreeing) for one in found.orders] == [("file", 0, None)]
    table = order_table(found)
    assert table.notes[0].startswith("There are no times")
    assert [cell.text for cell in table.cells[2]] == ["ties in one order", "–"]


def test_of_many_users_a_sample_is_ranked(monkeypatch):
    monkeypatch.setattr(order, "_SCORES", 1)
    found = certified()
    assert (found.ranked, found.tests) == (1, 3)
    assert order_table(found).notes[-1] == "The scores are of 1 of 3 users."
