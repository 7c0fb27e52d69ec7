"""What seeds say together and how variants differ, against computations of other kinds."""

import itertools

import numpy as np
import pytest

from echojax.suites.results import Evaluation, Ranks
from echojax.suites.scores import Difference, by_length, compare, estimates
from tests.suites.conftest import USERS, packed, write_run


def ranked(*rank_M, user_M=None, length_M=None):
    """Return an evaluation whose targets have these ranks."""
    rank_M = np.array(rank_M)
    user_M = np.arange(rank_M.size) if user_M is None else np.asarray(user_M)
    length_M = np.full(rank_M.size, 3) if length_M is None else np.asarray(length_M)
    return Evaluation({}, Ranks(rank_M, user_M, length_M))


def dcg(rank):
    return 1 / np.log2(1 + rank) if rank <= 10 else 0.0


@pytest.fixture
def read(finished_suite):
    """Return a function that reads a variant's evaluations, and its ranks as they lie on disk."""
    suite, runs, out = finished_suite
    results, _ = packed(suite, runs, out)

    def read(variant):
        wanted = [run for run in runs if run.variant == variant]
        ranks = [np.load(run.folder / "ranks.npz")["test_rank_M"] for run in wanted]
        return tuple(results.runs[run.name].evaluation for run in wanted), np.array(ranks)

    return read


def test_mean_spread_and_interval_of_three_seeds(read):
    runs, rank_SxM = read("ours")
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


def test_one_seed_has_no_spread_and_the_interval_of_its_results(read):
    (first, *_), _ = read("ours")
    hr, ndcg = estimates((first,))
    assert ndcg.spread is None
    assert hr.interval == pytest.approx(tuple(first.test["interval"]["hr@10"]))
    assert ndcg.mean == pytest.approx(first.test["ndcg@10"])


def test_lengths_are_those_of_the_results(read):
    runs, _ = read("sasrec")
    for bucket, *of_seeds in zip(
        by_length(runs), *(one.test["by_length"] for one in runs), strict=True
    ):
        assert (bucket.first, bucket.last) == (of_seeds[0]["from"], of_seeds[0]["to"])
        assert bucket.ndcg.mean == pytest.approx(np.mean([b["ndcg@10"] for b in of_seeds]))
        assert bucket.hr.mean == pytest.approx(np.mean([b["hr@10"] for b in of_seeds]))
        assert bucket.ndcg.interval[0] <= bucket.ndcg.mean <= bucket.ndcg.interval[1]
    assert sum(b.examples for b in by_length(runs)) == USERS


def test_runs_without_ranks_keep_what_their_results_say(make_suite):
    suite, planned, out = make_suite()
    for run in planned[1:4]:
        write_run(run, 2, ranks=False)
    results, _ = packed(suite, planned, out)
    runs = tuple(results.runs[run.name].evaluation for run in planned[1:4])
    of_seeds = [one.test["ndcg@10"] for one in runs]
    ndcg = estimates(runs)[1]
    assert ndcg.mean == pytest.approx(np.mean(of_seeds))
    assert ndcg.spread == pytest.approx(np.std(of_seeds, ddof=1))
    assert ndcg.interval is None
    assert estimates(runs[:1])[1].interval == tuple(runs[0].test["interval"]["ndcg@10"])
    assert by_length(runs)[0].ndcg.interval is None
    assert compare({0: runs[0]}, {0: runs[1]}, heuristic=(False, False)) == "no ranks are kept"


def test_the_difference_is_of_seed_means_user_by_user():
    """Eight users: all 256 swaps by hand."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(1, 4, (2, 8)), rng.integers(1, 13, (2, 8))
    found = compare(
        {s: ranked(*ours[s]) for s in (0, 1)},
        {s: ranked(*theirs[s]) for s in (0, 1)},
        heuristic=(False, False),
    )
    gain = np.vectorize(dcg)(ours).mean(axis=0) - np.vectorize(dcg)(theirs).mean(axis=0)
    swaps = [abs(np.dot(signs, gain)) for signs in itertools.product([-1, 1], repeat=8)]
    exact = np.mean(np.array(swaps) >= abs(gain.sum()) - 1e-12)
    assert isinstance(found, Difference)
    assert found.mean == pytest.approx(gain.mean())
    assert found.low < found.mean < found.high
    assert found.p == pytest.approx(exact, abs=0.02)
    # Only seeds that both have are compared.
    some = compare(
        {0: ranked(*ours[0]), 1: ranked(*ours[1])},
        {1: ranked(*theirs[1]), 2: ranked(*ours[0])},
        heuristic=(False, False),
    )
    one = np.vectorize(dcg)(ours[1]) - np.vectorize(dcg)(theirs[1])
    assert some.mean == pytest.approx(one.mean())
    assert some.spread is None
    none = compare({0: ranked(1)}, {2: ranked(2)}, heuristic=(False, False))
    assert none == "no seed in common with the reference yet"


def test_a_heuristic_model_stands_against_all_seeds():
    theirs = {0: ranked(2, 2), 1: ranked(4, 4)}
    mean = (dcg(2) + dcg(4)) / 2
    found = compare({0: ranked(1, 1)}, theirs, heuristic=(True, False))
    assert found.mean == pytest.approx(1 - mean)
    assert found.spread == pytest.approx(np.std([dcg(2), dcg(4)], ddof=1))
    found = compare(theirs, {0: ranked(1, 1)}, heuristic=(False, True))
    assert found.mean == pytest.approx(mean - 1)
    found = compare({0: ranked(1)}, {0: ranked(2)}, heuristic=(True, True))
    assert found.mean == pytest.approx(1 - dcg(2))


def test_other_users_or_histories_are_not_compared():
    base = {0: ranked(2, 4)}
    for other in (ranked(2, 4, user_M=[0, 2]), ranked(2, 4, length_M=[3, 4]), ranked(2)):
        found = compare({0: other}, base, heuristic=(False, False))
        assert found == "evaluated on other users or histories than the reference"
