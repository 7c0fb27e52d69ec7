"""What seeds say together and how rows differ, against computations of other kinds."""

import itertools

import numpy as np
import pytest

from echojax.reproduction.finished import PRIMARY, Finished, Ranks, read_finished
from echojax.reproduction.scores import Paired, by_length, compare, estimates
from tests.reproduction.conftest import USERS, write_run


def run(ndcg_M, *, user_M=None, length_M=None, buckets=()):
    """Return a run whose targets have these NDCGs (and no hits)."""
    values = np.zeros((len(ndcg_M), 9))
    values[:, PRIMARY] = ndcg_M
    user_M = np.arange(len(ndcg_M)) if user_M is None else np.asarray(user_M)
    length_M = np.full(len(ndcg_M), 3) if length_M is None else np.asarray(length_M)
    results = {"test": {"by_length": [*buckets]}}
    return Finished(results, Ranks(values, user_M, length_M))


def dcg(rank):
    return 1 / np.log2(1 + rank) if rank <= 10 else 0.0


@pytest.fixture
def read_row(finished_suite):
    """Return a function that reads a row's runs and their ranks as they lie on disk."""
    _, cells, _ = finished_suite

    def read(row):
        folders = [cell.folder for cell in cells if cell.row == row]
        ranks = [np.load(folder / "ranks.npz")["test_rank_M"] for folder in folders]
        return tuple(map(read_finished, folders)), np.array(ranks)

    return read


def test_mean_spread_and_interval_of_three_seeds(read_row):
    runs, rank_SxM = read_row("ours")
    hr, ndcg = estimates(runs)
    ndcg_SxM = np.vectorize(dcg)(rank_SxM)
    assert ndcg.mean == pytest.approx(ndcg_SxM.mean())
    assert hr.mean == pytest.approx((rank_SxM <= 10).mean())
    means = [float(row.mean()) for row in ndcg_SxM]
    assert ndcg.spread == pytest.approx(np.sqrt(sum((m - np.mean(means)) ** 2 for m in means) / 2))
    rng, user = np.random.default_rng(1), ndcg_SxM.mean(axis=0)
    drawn = [user[rng.integers(0, USERS, USERS)].mean() for _ in range(4000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert ndcg.interval == pytest.approx((low, high), abs=0.1 * (high - low))
    assert hr.interval[0] < hr.mean < hr.interval[1]


def test_one_seed_has_no_spread_and_the_interval_of_its_results(read_row):
    (first, *_), _ = read_row("ours")
    hr, ndcg = estimates((first,))
    assert ndcg.spread is None
    assert hr.interval == pytest.approx(tuple(first.results["test"]["interval"]["hr@10"]))
    assert ndcg.mean == pytest.approx(first.results["test"]["ndcg@10"])


def test_lengths_are_those_of_the_results(read_row):
    runs, _ = read_row("sasrec")
    for bucket, *of_seeds in zip(
        by_length(runs), *(one.results["test"]["by_length"] for one in runs), strict=True
    ):
        assert (bucket.first, bucket.last) == (of_seeds[0]["from"], of_seeds[0]["to"])
        assert bucket.ndcg.mean == pytest.approx(np.mean([b["ndcg@10"] for b in of_seeds]))
        assert bucket.hr.mean == pytest.approx(np.mean([b["hr@10"] for b in of_seeds]))
        assert bucket.ndcg.interval[0] <= bucket.ndcg.mean <= bucket.ndcg.interval[1]
    assert sum(b.examples for b in by_length(runs)) == USERS


def test_runs_without_ranks_keep_what_their_results_say(make_suite):
    _, cells, _ = make_suite()
    for cell in cells[1:4]:
        write_run(cell, 2, ranks=False)
    runs = tuple(read_finished(cell.folder) for cell in cells[1:4])
    of_seeds = [one.results["test"]["ndcg@10"] for one in runs]
    ndcg = estimates(runs)[1]
    assert ndcg.mean == pytest.approx(np.mean(of_seeds))
    assert ndcg.spread == pytest.approx(np.std(of_seeds, ddof=1))
    assert ndcg.interval is None
    assert estimates(runs[:1])[1].interval == tuple(runs[0].results["test"]["interval"]["ndcg@10"])
    assert by_length(runs)[0].ndcg.interval is None
    assert compare({0: runs[0]}, {0: runs[1]}, counted=(False, False)) == "no ranks are kept"


def test_a_run_that_was_made_again_is_read_again(make_suite):
    _, cells, _ = make_suite()
    write_run(cells[1], 2)
    before = read_finished(cells[1].folder)
    assert read_finished(cells[1].folder) is before
    write_run(cells[1], 9)
    after = read_finished(cells[1].folder)
    assert estimates((after,))[1].mean > estimates((before,))[1].mean


def test_the_difference_is_of_seed_means_user_by_user():
    """Eight users: all 256 swaps by hand."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((2, 8)) * 0.5 + 0.2, rng.random((2, 8)) * 0.5
    found = compare(
        {s: run(ours[s]) for s in (0, 1)}, {s: run(theirs[s]) for s in (0, 1)},
        counted=(False, False),
    )  # fmt: skip
    gain = ours.mean(axis=0) - theirs.mean(axis=0)
    swaps = [abs(np.dot(signs, gain)) for signs in itertools.product([-1, 1], repeat=8)]
    exact = np.mean(np.array(swaps) >= abs(gain.sum()) - 1e-12)
    assert isinstance(found, Paired)
    assert found.difference == pytest.approx(gain.mean())
    assert found.low < found.difference < found.high
    assert found.p == pytest.approx(exact, abs=0.02)
    assert found.seeds == 2


def test_only_seeds_that_both_have_are_compared():
    ours = {0: run([0.5, 0.5]), 1: run([0.9, 0.9])}
    found = compare(ours, {1: run([0.1, 0.3]), 2: run([0, 0])}, counted=(False, False))
    assert found.difference == pytest.approx(0.7)
    assert found.seeds == 1
    none = compare({0: ours[0]}, {2: ours[1]}, counted=(False, False))
    assert none == "no seed in common with the reference yet"


def test_what_counts_stands_against_all_seeds():
    theirs = {0: run([0.2, 0.2]), 1: run([0.4, 0.4])}
    found = compare({0: run([0.5, 0.5])}, theirs, counted=(True, False))
    assert found.difference == pytest.approx(0.2)
    assert found.seeds == 2
    found = compare(theirs, {0: run([0.5, 0.5])}, counted=(False, True))
    assert found.difference == pytest.approx(-0.2)
    found = compare({0: run([0.5])}, {0: run([0.4])}, counted=(True, True))
    assert found.difference == pytest.approx(0.1)


def test_other_users_or_histories_are_not_compared():
    base = {0: run([0.2, 0.4])}
    for other in (run([0.2, 0.4], user_M=[0, 2]), run([0.2, 0.4], length_M=[3, 4]), run([0.2])):
        found = compare({0: other}, base, counted=(False, False))
        assert found == "judged on other users or histories than the reference"
