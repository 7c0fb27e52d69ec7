"""What the seeds of a row say together, and whether two rows differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from echojax.evaluation.statistics import bootstrap_intervals, paired_difference
from echojax.reproduction.finished import COLUMNS, METRICS, PRIMARY, Finished, Ranks

RESAMPLES = 10_000  # of the paired tests
FEW = 30  # test examples; below so many a mean says little and its interval nothing


@dataclass(frozen=True)
class Estimate:
    """A metric of a row.

    Attributes:
        mean: over test targets and seeds.
        interval: 95 %, by the bootstrap over users of the seeds' mean; ``None`` where ranks are
            missing.
        spread: standard deviation between seeds (n - 1); ``None`` of a single one.
    """

    mean: float
    interval: tuple[float, float] | None = None
    spread: float | None = None


@dataclass(frozen=True)
class Bucket:
    """The metrics of histories of ``first`` to ``last`` items (``None``: no end)."""

    first: int
    last: int | None
    examples: int
    hr: Estimate
    ndcg: Estimate


@dataclass(frozen=True)
class Paired:
    """NDCG@10 of a row less the reference's, user by user.

    Attributes:
        difference: of the means over the seeds that both have.
        spread: its standard deviation between those seeds (n - 1); ``None`` of a single one.
        low: with ``high`` its 95 % bootstrap interval over users.
        high: see ``low``.
        p: two-sided, of a permutation test that swaps the rows' results of a user.
        p_holm: corrected for all comparisons of the table; set once they are known.
        seeds: how many both have.
    """

    difference: float
    spread: float | None
    low: float
    high: float
    p: float
    p_holm: float
    seeds: int


@cache
def estimates(runs: tuple[Finished, ...]) -> tuple[Estimate, ...]:
    """Return the estimate of each of ``METRICS`` over the seeds of a row."""
    ranks = [run.ranks for run in runs]
    if any(one is None for one in ranks):
        return tuple(_without_ranks([run.results["test"] for run in runs], m) for m in METRICS)
    mean = seed_mean(runs)
    # All metrics are drawn together, as for results.json: one seed's intervals are the same.
    intervals = bootstrap_intervals(mean.values_MxF, mean.user_M)[COLUMNS]
    of_seeds_SxF = np.stack(
        [one.values_MxF[:, COLUMNS].mean(axis=0) for one in ranks if one is not None]
    )
    return _joined(of_seeds_SxF, intervals)


@cache
def by_length(runs: tuple[Finished, ...]) -> tuple[Bucket, ...]:
    """Return the metrics by length of the history, in the ranges of ``results.json``."""
    mean = None if any(run.ranks is None for run in runs) else seed_mean(runs)
    buckets = []
    for place, one in enumerate(runs[0].results["test"]["by_length"]):
        first, last = one["from"], one["to"]
        if mean is None:
            of_seeds = [run.results["test"]["by_length"][place] for run in runs]
            hr, ndcg = (_without_ranks(of_seeds, metric) for metric in METRICS)
        else:
            inside = (mean.length_M >= first) & (mean.length_M <= (last or np.inf))
            shown_MxF = mean.values_MxF[inside][:, COLUMNS]
            intervals = bootstrap_intervals(shown_MxF, mean.user_M[inside])
            of_seeds_SxF = np.stack(
                [r.ranks.values_MxF[inside][:, COLUMNS].mean(axis=0) for r in runs if r.ranks]
            )
            hr, ndcg = _joined(of_seeds_SxF, intervals)
        buckets.append(Bucket(first, last, one["examples"], hr, ndcg))
    return tuple(buckets)


def compare(
    ours: Mapping[int, Finished], theirs: Mapping[int, Finished], *, counted: tuple[bool, bool]
) -> Paired | str:
    """Compare NDCG@10 of two rows, user by user, or return why that cannot be done.

    Args:
        ours: finished runs by seed.
        theirs: of the reference.
        counted: of each, whether seeds make no difference: one run stands for all.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if any(counted):
        seeds = sorted((ours if counted[1] else theirs).keys())

    def chosen(runs: Mapping[int, Finished], one_for_all: bool) -> tuple[Finished, ...]:
        return tuple(runs.values()) if one_for_all else tuple(runs[seed] for seed in seeds)

    if not ours or not theirs or not seeds:
        return "no seed in common with the reference yet"
    return _compare(chosen(ours, counted[0]), chosen(theirs, counted[1]), len(seeds))


@cache
def _compare(ours: tuple[Finished, ...], theirs: tuple[Finished, ...], seeds: int) -> Paired | str:
    if any(run.ranks is None for run in (*ours, *theirs)):
        return "no ranks are kept"
    mean, reference = seed_mean(ours), seed_mean(theirs)
    if not mean.same_targets(reference):
        return "judged on other users or histories than the reference"
    found = paired_difference(
        mean.values_MxF[:, PRIMARY], reference.values_MxF[:, PRIMARY], mean.user_M,
        resamples=RESAMPLES,
    )  # fmt: skip
    of_seeds = [
        np.array([run.ranks.values_MxF[:, PRIMARY].mean() for run in runs if run.ranks])
        for runs in (ours, theirs)
    ]
    gain_S = np.subtract(*of_seeds)  # a counted row has one run for all seeds
    spread = float(gain_S.std(ddof=1)) if gain_S.size > 1 else None
    return Paired(**found, spread=spread, p_holm=found["p"], seeds=seeds)


def seed_mean(runs: Sequence[Finished]) -> Ranks:
    """Return each target's metrics, averaged over seeds that were judged on the same targets."""
    ranks = [run.ranks for run in runs if run.ranks is not None]
    values_MxF = np.mean([one.values_MxF for one in ranks], axis=0)
    return Ranks(values_MxF, ranks[0].user_M, ranks[0].length_M)


def _joined(of_seeds_SxF: np.ndarray, intervals_Fx2: np.ndarray) -> tuple[Estimate, ...]:
    means_F, count = of_seeds_SxF.mean(axis=0).tolist(), len(of_seeds_SxF)
    spreads_F = of_seeds_SxF.std(axis=0, ddof=1).tolist() if count > 1 else [None] * len(means_F)
    intervals = [(low, high) for low, high in intervals_Fx2.tolist()]
    return tuple(map(Estimate, means_F, intervals, spreads_F))


def _without_ranks(of_seeds: list[dict[str, Any]], metric: str) -> Estimate:
    """Return what results alone tell: a single run's interval, none of several."""
    values = [one[metric] for one in of_seeds]
    if len(values) == 1:
        return Estimate(values[0], tuple(of_seeds[0]["interval"][metric]))
    return Estimate(float(np.mean(values)), None, float(np.std(values, ddof=1)))
