"""The order certificate of a data set: how far ties and rounded times decide what is measured."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import msgspec
import numpy as np
import polars as pl
from scipy.special import gammaln

from echojax.data import Dataset, Preparation, leave_one_out
from echojax.evaluation.baselines import rank_by, scorer
from echojax.evaluation.metrics import SHOWN, example_metrics
from echojax.models.heuristic import LaggedCount, Markov

MODELS = {"markov": Markov, "lagged_count": LaggedCount}
SEEDS = (0, 1, 2)  # of random orders
_SHOWN = 10  # newest items; these models read fewer
_SCORES = 2**29  # of a model, in all orders: of more test examples a sample is ranked


class Ordered(msgspec.Struct):
    """A data set in one order; means over seeds where that is random."""

    time_precision: str  # as of ``prepare``
    ties: str  # ``file`` or ``random``
    tied: float  # share of a user's neighbouring events that have one time
    tied_tests: float  # share of test items that have the time of the event before them
    # Where several users have the same two items as neighbours of one time, the share of these
    # users who have them in the order that most of them have; ``None``: nowhere.
    agreeing: float | None
    by_chance: float | None  # what that share would be if each user's order were a coin's
    # Share of users whose test item is another than by exact times and the file.
    changed_tests: float
    markov: tuple[float, float]  # HR@10 and NDCG@10 on test, seen items kept
    lagged_count: tuple[float, float]  # the same


class Certificate(msgspec.Struct):
    """What several orders make of a data set."""

    sha256: str  # of the data in the order in which they are used
    tests: int  # test examples
    ranked: int  # how many of them the models are tested on
    timed: bool  # whether there are times; without them there is one order
    # Whether each user's rows in the file are in the order of exact times, so that they are not
    # known to be the publisher's, and rounded times give no other order.
    rows_in_time_order: bool
    # That of exact times and the file first.
    orders: Annotated[list[Ordered], msgspec.Meta(min_length=1)]


def certify(prepare: Callable[[Preparation], Dataset], preparation: Preparation) -> Certificate:
    """Return what orders make of a data set, and how two models that only count score in each.

    ``prepare`` returns the data set, prepared as it is told; ``preparation`` is how it is used.
    """
    exact = prepare(replace(preparation, time_precision="exact", ties="file"))
    tests = leave_one_out(exact, _SHOWN).test
    timed, in_order = exact.fingerprint["time"] != "position", False
    most = _SCORES // (exact.num_items * (2 + 2 * len(SEEDS) if timed else 1))
    ranked = min(len(tests), max(1, most))
    ranked_M = np.sort(np.random.default_rng(0).permutation(len(tests))[:ranked])
    orders = [_ordered("exact", "file", [exact], exact, ranked_M)]
    for precision, ties in (("exact", "random"), ("float32", "file"), ("float32", "random")):
        if timed:
            every = ["file"] if ties == "file" else [f"random:{seed}" for seed in SEEDS]
            datasets = [
                prepare(replace(preparation, time_precision=precision, ties=one)) for one in every
            ]
            in_order = datasets[0].fingerprint["order"]["rows_in_time_order"]
            orders.append(_ordered(precision, ties, datasets, exact, ranked_M, orders[0]))
    sha256 = prepare(preparation).fingerprint["sha256"]
    return Certificate(sha256, len(tests), ranked, timed, in_order, orders)


def _ordered(
    precision: str,
    ties: str,
    datasets: Sequence[Dataset],
    exact: Dataset,
    ranked_M: np.ndarray,
    known: Ordered | None = None,
) -> Ordered:
    """Return the means over data sets in random orders; ``known`` is that of ``exact``."""
    tests = leave_one_out(exact, _SHOWN).test.target_M  # the same places in every order
    agreeing = [agreement(one) for one in datasets]
    of_exact = np.array([getattr(known, name) for name in MODELS]) if known else None
    scores_MxF = np.mean(
        [
            of_exact
            if of_exact is not None and np.array_equal(one.items_T, exact.items_T)
            else _scores(one, ranked_M)
            for one in datasets
        ],
        axis=0,
    )
    return Ordered(
        time_precision=precision,
        ties=ties,
        tied=datasets[0].fingerprint["tie_share"],
        tied_tests=float((datasets[0].times_T[tests] == datasets[0].times_T[tests - 1]).mean()),
        agreeing=None if None in agreeing else _mean([one[0] for one in agreeing if one]),
        by_chance=None if None in agreeing else _mean([one[1] for one in agreeing if one]),
        changed_tests=_mean([(one.items_T != exact.items_T)[tests].mean() for one in datasets]),
        **{name: tuple(row) for name, row in zip(MODELS, scores_MxF.tolist(), strict=True)},
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def agreement(dataset: Dataset) -> tuple[float, float] | None:
    """Return ``Ordered.agreeing`` and ``Ordered.by_chance``; ``None`` where no users share a tie.

    A user whose history repeats two items counts once for them.
    """
    user_T = np.repeat(np.arange(dataset.num_users), np.diff(dataset.offsets))
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
    """Return HR@10 and NDCG@10 of each of ``MODELS``, (M, F)."""
    split = leave_one_out(dataset, _SHOWN)
    tests = split.test.at(ranked_M)
    scores = []
    for model in MODELS.values():
        score = scorer(model(split.train, dataset.num_items))
        rank_M = rank_by(score, tests, dataset.num_items, exclude_seen=False).rank_M
        scores.append(example_metrics(rank_M, SHOWN).mean(axis=0))
    return np.array(scores)
