"""What seeds say together and how variants differ, against computations of other kinds."""

import itertools
import json

import numpy as np
import pytest

from echojax.suites.results import Evaluation, Ranks
from echojax.suites.scores import by_length, compare, score_frame, scores
from tests.suites.conftest import SUITE, USERS, packed, write_run


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
        return tuple(results.runs[run.name].evaluations[None] for run in wanted), np.array(ranks)

    return read


def test_mean_spread_and_interval_of_three_seeds(read):
    runs, rank_SxM = read("ours")
    found = scores(runs)
    ndcg_SxM = np.vectorize(dcg)(rank_SxM)
    assert found["ndcg@10"] == pytest.approx(ndcg_SxM.mean())
    assert found["hr@10"] == pytest.approx((rank_SxM <= 10).mean())
    means = [float(row.mean()) for row in ndcg_SxM]
    spread = np.sqrt(sum((m - np.mean(means)) ** 2 for m in means) / 2)
    assert found["ndcg@10_spread"] == pytest.approx(spread)
    rng, user = np.random.default_rng(1), ndcg_SxM.mean(axis=0)
    drawn = [user[rng.integers(0, USERS, USERS)].mean() for _ in range(4000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    interval = found["ndcg@10_low"], found["ndcg@10_high"]
    assert interval == pytest.approx((low, high), abs=0.1 * (high - low))
    assert found["hr@10_low"] < found["hr@10"] < found["hr@10_high"]
    one = scores(runs[:1])  # has no spread and the interval of its results
    assert one["ndcg@10_spread"] is None
    interval = [one["hr@10_low"], one["hr@10_high"]]
    assert interval == pytest.approx(runs[0].test["interval"]["hr@10"])


def test_the_sizes_of_a_lagged_count_are_those_told_else_chosen_else_of_before(make_suite):
    text = SUITE.replace('"popularity"\n', '"lagged-count"\ndamping = 0.0\n')
    suite, runs, out = make_suite(text)
    write_run(run := runs[0], 1)
    path = run.folder / "results.json"
    for chosen, sizes in (({}, "J 4, a 0"), ({"lags": 8, "damping": 1.0}, "J 8, a 0")):
        found = json.loads(path.read_text())
        found["baselines"]["lagged-count"] = found["baselines"]["popularity"] | chosen
        path.write_text(json.dumps(found))
        results, _ = packed(suite, runs, out)
        frame = score_frame(suite, "ring", runs, {run.name: results.runs[run.name]})
        assert frame.row(0, named=True)["sizes"] == sizes


def test_lengths_are_those_of_the_results(read):
    runs, _ = read("sasrec")
    bins = by_length(runs)
    for found, *of_seeds in zip(bins, *(one.test["by_length"] for one in runs), strict=True):
        assert (found["from"], found["to"]) == (of_seeds[0]["from"], of_seeds[0]["to"])
        for metric in ("hr@10", "ndcg@10"):
            assert found[metric] == pytest.approx(np.mean([one[metric] for one in of_seeds]))
            assert found[f"{metric}_low"] <= found[metric] <= found[f"{metric}_high"]
    assert sum(one["examples"] for one in bins) == USERS


def test_runs_without_ranks_keep_what_their_results_say(make_suite):
    suite, planned, out = make_suite()
    for run in planned[1:4]:
        write_run(run, 2, ranks=False)
    results, _ = packed(suite, planned, out)
    runs = tuple(results.runs[run.name].evaluations[None] for run in planned[1:4])
    of_seeds = [one.test["ndcg@10"] for one in runs]
    found = scores(runs)
    assert found["ndcg@10"] == pytest.approx(np.mean(of_seeds))
    assert found["ndcg@10_spread"] == pytest.approx(np.std(of_seeds, ddof=1))
    assert found["ndcg@10_low"] is by_length(runs)[0]["ndcg@10_low"] is None
    alone = scores(runs[:1])
    assert [alone["hr@10_low"], alone["hr@10_high"]] == runs[0].test["interval"]["hr@10"]
    assert why_not({0: runs[0]}, {0: runs[1]}) == "no ranks are kept"


def why_not(ours, theirs):
    found = compare(ours, theirs, heuristic=(False, False))
    assert found.keys() == {"not_tested"}
    return found["not_tested"]


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
    assert found["difference_mean"] == pytest.approx(gain.mean())
    assert found["difference_low"] < gain.mean() < found["difference_high"]
    assert found["difference_p"] == pytest.approx(exact, abs=0.02)
    # Only seeds that both have are compared.
    some = compare(
        {0: ranked(*ours[0]), 1: ranked(*ours[1])},
        {1: ranked(*theirs[1]), 2: ranked(*ours[0])},
        heuristic=(False, False),
    )
    one = np.vectorize(dcg)(ours[1]) - np.vectorize(dcg)(theirs[1])
    assert some["difference_mean"] == pytest.approx(one.mean())
    assert some["difference_spread"] is None
    none = why_not({0: ranked(1)}, {2: ranked(2)})
    assert none == "no seed in common with the reference yet"


def test_a_heuristic_model_stands_against_all_seeds():
    theirs = {0: ranked(2, 2), 1: ranked(4, 4)}
    mean = (dcg(2) + dcg(4)) / 2
    found = compare({0: ranked(1, 1)}, theirs, heuristic=(True, False))
    assert found["difference_mean"] == pytest.approx(1 - mean)
    assert found["difference_spread"] == pytest.approx(np.std([dcg(2), dcg(4)], ddof=1))
    found = compare(theirs, {0: ranked(1, 1)}, heuristic=(False, True))
    assert found["difference_mean"] == pytest.approx(mean - 1)
    found = compare({0: ranked(1)}, {0: ranked(2)}, heuristic=(True, True))
    assert found["difference_mean"] == pytest.approx(1 - dcg(2))


def test_other_users_or_histories_are_not_compared():
    base = {0: ranked(2, 4)}
    for other in (ranked(2, 4, user_M=[0, 2]), ranked(2, 4, length_M=[3, 4]), ranked(2)):
        assert (
            why_not({0: other}, base) == "evaluated on other users or histories than the reference"
        )
