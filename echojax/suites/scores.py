"""What the seeds of a variant say together, and whether two variants differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from echojax.evaluation.metrics import metric_names
from echojax.evaluation.statistics import (
    Estimate,
    holm,
    paired_difference,
    seed_estimates,
    spread_of,
)
from echojax.suites.results import Evaluation, Ranks

METRICS = ("hr@10", "ndcg@10")
COLUMNS = [metric_names().index(name) for name in METRICS]
PRIMARY = metric_names().index("ndcg@10")  # what is tested
RESAMPLES = 10_000  # of the paired tests
FEW = 30  # test examples; below so many a mean says little and its interval nothing


@dataclass(frozen=True)
class LengthBin:
    """The metrics of histories of ``first`` to ``last`` items (``None``: no end)."""

    first: int
    last: int | None
    examples: int
    hr: Estimate
    ndcg: Estimate


@dataclass(frozen=True)
class Difference:
    """NDCG@10 of a variant minus the reference's, user by user.

    Attributes:
        mean: of the means over the seeds that both have.
        spread: its standard deviation between those seeds (n - 1); ``None`` of a single one.
        low: with ``high`` its 95 % bootstrap interval over users.
        high: see ``low``.
        p: two-sided, of a permutation test that swaps the two variants' results of a user.
        p_holm: corrected for all comparisons of the table; set once they are known.
    """

    mean: float
    spread: float | None
    low: float
    high: float
    p: float
    p_holm: float


@cache
def estimates(seeds: tuple[Evaluation, ...]) -> tuple[Estimate, ...]:
    """Return the estimate of each of ``METRICS`` over the seeds of a variant."""
    ranks = _ranks(seeds)
    if not ranks:
        return tuple(_without_ranks([one.test for one in seeds], name) for name in METRICS)
    # All metrics are drawn together, as for results.json: one seed's intervals are the same.
    found = seed_estimates([one.metrics() for one in ranks], ranks[0].user_M)
    return tuple(found[column] for column in COLUMNS)


@cache
def by_length(seeds: tuple[Evaluation, ...]) -> tuple[LengthBin, ...]:
    """Return the metrics by length of the history, in the bins of ``results.json``."""
    ranks, bins = _ranks(seeds), []
    for place, one in enumerate(seeds[0].test["by_length"]):
        if ranks:
            length_M = ranks[0].length_M
            inside_M = (length_M >= one["from"]) & (length_M <= (one["to"] or np.inf))
            values = [seed.metrics()[inside_M][:, COLUMNS] for seed in ranks]
            hr, ndcg = seed_estimates(values, ranks[0].user_M[inside_M])
        else:
            of_seeds = [seed.test["by_length"][place] for seed in seeds]
            hr, ndcg = (_without_ranks(of_seeds, name) for name in METRICS)
        bins.append(LengthBin(one["from"], one["to"], one["examples"], hr, ndcg))
    return tuple(bins)


def compare(
    ours: Mapping[int, Evaluation],
    theirs: Mapping[int, Evaluation],
    *,
    heuristic: tuple[bool, bool],
) -> Difference | str:
    """Compare NDCG@10 of two variants, user by user, or return why that cannot be done.

    Args:
        ours: evaluations by seed.
        theirs: of the reference.
        heuristic: of each, whether seeds make no difference: one stands for all.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if any(heuristic):
        seeds = sorted((ours if heuristic[1] else theirs).keys())
    if not ours or not theirs or not seeds:
        return "no seed in common with the reference yet"
    chosen = [
        tuple(one.values()) if same else tuple(one[seed] for seed in seeds)
        for one, same in zip((ours, theirs), heuristic, strict=True)
    ]
    return _compare(chosen[0], chosen[1])


@cache
def _compare(ours: tuple[Evaluation, ...], theirs: tuple[Evaluation, ...]) -> Difference | str:
    ranks = _ranks(ours), _ranks(theirs)
    if not all(ranks):
        return "no ranks are kept"
    targets = ranks[0][0]
    if not targets.same_targets(ranks[1][0]):
        return "evaluated on other users or histories than the reference"
    ours_SxM, theirs_SxM = (np.array([one.metrics()[:, PRIMARY] for one in row]) for row in ranks)
    found = paired_difference(
        ours_SxM.mean(axis=0), theirs_SxM.mean(axis=0), targets.user_M, resamples=RESAMPLES
    )
    # A heuristic variant has one run for all seeds.
    spread = spread_of(ours_SxM.mean(axis=1) - theirs_SxM.mean(axis=1))
    return Difference(
        found["difference"], spread, found["low"], found["high"], found["p"], found["p"]
    )


def corrected(differences: Sequence[Any]) -> list[Any]:
    """Return a table's differences with p values corrected for all of them; others as they are."""
    p_holm = iter(holm([one.p for one in differences if isinstance(one, Difference)]))
    return [
        replace(one, p_holm=next(p_holm)) if isinstance(one, Difference) else one
        for one in differences
    ]


def _ranks(seeds: Sequence[Evaluation]) -> list[Ranks]:
    """Return the ranks of all seeds; nothing where one has none."""
    kept = [one.ranks for one in seeds if one.ranks is not None]
    return kept if len(kept) == len(seeds) else []


def _without_ranks(of_seeds: list[dict[str, Any]], metric: str) -> Estimate:
    """Return what results without ranks tell: a single run's interval, none of several."""
    values_S = np.array([one[metric] for one in of_seeds])
    interval = tuple(of_seeds[0]["interval"][metric]) if len(of_seeds) == 1 else None
    return Estimate(float(values_S.mean()), interval, spread_of(values_S))
