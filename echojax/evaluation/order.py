"""The order certificate of a data set: how much ties and rounded times change the results."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import msgspec
import numpy as np
import polars as pl
from scipy.special import gammaln

from echojax.data import Dataset, Preparation, leave_one_out
from echojax.evaluation.baselines import rank_by
from echojax.evaluation.metrics import SHOWN, example_metrics
from echojax.models.heuristic import LaggedCount, Markov

SIMPLE_MODELS = {"markov": Markov, "lagged_count": LaggedCount}
SEEDS = (0, 1, 2)  # of random orders
_SHOWN = 10  # how many of the newest items are gathered; these models read fewer
_SCORES = 2**29  # the most scores per model, over all orders; beyond, a sample is ranked


class Ordered(msgspec.Struct):
    """A data set in one order of events; if that is random, means over seeds."""

    time_precision: str  # as of ``prepare``
    ties: str  # ``file`` or ``random``
    tied: float  # share of a user's neighbouring events that have the same time
    tied_tests: float  # share of test items with the same time as the event before
    # Among users who have the same two items as neighbouring events of the same time, the share who
    # have them in the order of the majority; ``None`` if there are no such users.
    agreeing: float | None
    by_chance: float | None  # the expectation of that share if every user's order were random
    # Share of users whose test item differs from that by exact times and the order of the file.
    changed_tests: float
    markov: tuple[float, float]  # HR@10 and NDCG@10 on test, seen items kept
    lagged_count: tuple[float, float]  # the same


class Certificate(msgspec.Struct):
    """A data set in several orders of events."""

    sha256: str  # of the data in the order that is used
    tests: int  # the number of test examples
    ranked: int  # the number of test examples on which the models are tested
    timed: bool  # whether there are times; without times there is only one order
    # Whether the rows of each user are in the order of exact times in the file; it may then have
    # been sorted after publication, and rounded times change no order.
    rows_in_time_order: bool
    # The first order is by exact times, with ties as in the file.
    orders: Annotated[list[Ordered], msgspec.Meta(min_length=1)]


def certify(prepare: Callable[[Preparation], Dataset], preparation: Preparation) -> Certificate:
    """Compare a data set in several orders of events, also by the scores of two simple models.

    ``prepare`` prepares the data set in a given way; ``preparation`` is the way that is used.
    """
    exact = prepare(replace(preparation, time_precision="exact", ties="file"))
    tests = leave_one_out(exact, _SHOWN).test
    timed, in_order = exact.fingerprint["time"] != "position", False
    most = _SCORES // (exact.num_items * (2 + 2 * len(SEEDS) if timed else 1))
    ranked = min(len(tests), max(1, most))
    ranked_M = np.sort(np.random.default_rng(0).permutation(len(tests))[:ranked])
    scores_MxF = _scores(exact, ranked_M)
    orders = [_ordered("exact", "file", [exact], exact, ranked_M, scores_MxF)]
    for precision, ties in (("exact", "random"), ("float32", "file"), ("float32", "random")):
        if timed:
            every = ["file"] if ties == "file" else [f"random:{seed}" for seed in SEEDS]
            datasets = [
                prepare(replace(preparation, time_precision=precision, ties=one)) for one in every
            ]
            in_order = datasets[0].fingerprint["order"]["rows_in_time_order"]
            orders.append(_ordered(precision, ties, datasets, exact, ranked_M, scores_MxF))
    sha256 = prepare(preparation).fingerprint["sha256"]
    return Certificate(sha256, len(tests), ranked, timed, in_order, orders)


def _ordered(
    precision: str,
    ties: str,
    datasets: Sequence[Dataset],
    exact: Dataset,
    ranked_M: np.ndarray,
    of_exact_MxF: np.ndarray,
) -> Ordered:
    """Return the means over the data sets of an order; ``of_exact`` are the scores of ``exact``."""
    tests = leave_one_out(exact, _SHOWN).test.target_M  # the same positions in every order
    agreeing = [agreement(one) for one in datasets]
    each = [
        of_exact_MxF if np.array_equal(one.items_T, exact.items_T) else _scores(one, ranked_M)
        for one in datasets
    ]
    scores_MxF = np.mean(each, axis=0)
    return Ordered(
        time_precision=precision,
        ties=ties,
        tied=datasets[0].fingerprint["tie_share"],
        tied_tests=float((datasets[0].times_T[tests] == datasets[0].times_T[tests - 1]).mean()),
        agreeing=None if None in agreeing else _mean([one[0] for one in agreeing if one]),
        by_chance=None if None in agreeing else _mean([one[1] for one in agreeing if one]),
        changed_tests=_mean([(one.items_T != exact.items_T)[tests].mean() for one in datasets]),
        **{name: tuple(row) for name, row in zip(SIMPLE_MODELS, scores_MxF.tolist(), strict=True)},
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def agreement(dataset: Dataset) -> tuple[float, float] | None:
    """Return ``Ordered.agreeing`` and ``Ordered.by_chance``; ``None`` if no users share a tie.

    A user who has the same two items more than once counts once.
    """
    user_T = dataset.users_T
    first, second = dataset.items_T[:-1], dataset.items_T[1:]
    tied = (user_T[1:] == user_T[:-1]) & (dataset.times_T[1:] == dataset.times_T[:-1])
    tied &= first != second
    low, high = np.minimum(first, second), np.maximum(first, second)
    pairs = (
        pl.DataFrame({"user": user_T[1:], "low": low, "high": high, "rising": first < second})
        .filter(tied)
        .unique(subset=["user", "low", "high"], keep="first", maintain_order=True)
        .group_by("low", "high")
        .agg(users=pl.len(), rising=pl.col("rising").sum())
        .filter(pl.col("users") > 1)
    )
    if not pairs.height:
        return None
    n, rising = (pairs[name].to_numpy().astype(np.float64) for name in ("users", "rising"))
    # The mean distance of n coins' heads from n / 2 is n binom(n - 1, n // 2) / 2 ** n.
    half = np.floor(n / 2)
    log_binomial = gammaln(n) - gammaln(half + 1) - gammaln(n - half)
    chance = n / 2 + n * np.exp(log_binomial - n * np.log(2))
    return float(np.maximum(rising, n - rising).sum() / n.sum()), float(chance.sum() / n.sum())


def _scores(dataset: Dataset, ranked_M: np.ndarray) -> np.ndarray:
    """Return HR@10 and NDCG@10 of each of ``SIMPLE_MODELS``, (M, F)."""
    split = leave_one_out(dataset, _SHOWN)
    tests = split.test.at(ranked_M)
    scores = []
    for model in SIMPLE_MODELS.values():
        fitted = model(split.train, dataset.num_items)
        rank_M = rank_by(fitted, tests, dataset.num_items, exclude_seen=False).rank_M
        scores.append(example_metrics(rank_M, SHOWN).mean(axis=0))
    return np.array(scores)
