"""Metrics from ranks: hit rate, NDCG, MRR, coverage, popularity, by history length."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from echojax.data import Examples
from echojax.evaluation.ranking import TOP, Ranked
from echojax.evaluation.statistics import bootstrap_intervals
from echojax.plugins import check_new_name

Metric = Callable[[np.ndarray], np.ndarray]

CUTOFFS = (5, 10, 20)
_LENGTHS = (1, 5, 10, 20, 50, 100, 200)  # where buckets of history lengths begin


def metric_names(cutoffs: Sequence[int] = CUTOFFS) -> list[str]:
    """Return hr@5, hr@10, ..., mrr@20, in the order of ``metrics_of``."""
    return [f"{kind}@{k}" for kind in ("hr", "ndcg", "mrr") for k in cutoffs]


def metrics_of(rank_M: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> np.ndarray:
    """Return every example's metrics, (M, 9) float64; three for each of other cutoffs.

    With one relevant item: hit rate 1, NDCG 1/log2(1 + rank), MRR 1/rank, each 0 past the cutoff.
    """
    rank = rank_M.astype(np.float64)[:, None]
    hits = rank <= np.array(cutoffs)
    return np.hstack([hits, hits / np.log2(1 + rank), hits / rank])


REGISTERED: dict[str, Metric] = {}


def register_metric(name: str) -> Callable[[Metric], Metric]:
    """Make a function of ranks a metric of that name: runs validate, test and report it too.

    Args:
        name: such as ``hr@1``. A function that is registered again takes its place.

    The function is ``metric(rank_M) -> value_M``: the rank of each example's target among all
    items, float64 from 1, and a number for each.

    Raises:
        UserError: the name is echojax's own.
    """
    check_new_name("metric", name, metric_names())

    def register(metric: Metric) -> Metric:
        REGISTERED[name] = metric
        return metric

    return register


def _all_metrics(rank_M: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return names and every example's values, (M, F), of the registered metrics too."""
    more = [metric(rank_M.astype(np.float64)) for metric in REGISTERED.values()]
    return [*metric_names(), *REGISTERED], np.column_stack([metrics_of(rank_M), *more])


def mean_metrics(rank_M: np.ndarray) -> dict[str, float]:
    """Return the mean of each metric by name: what chooses among a run's checkpoints."""
    names, values = _all_metrics(rank_M)
    return dict(zip(names, values.mean(axis=0).tolist(), strict=True))


def summarise(
    ranked: Ranked, examples: Examples, popularity_V: np.ndarray, *, seed: int = 0
) -> dict[str, Any]:
    """Return the results of one evaluation, JSON-able.

    Args:
        ranked: ranks and recommended items of the examples.
        examples: what was ranked.
        popularity_V: training interactions of each item.
        seed: of the bootstrap.

    Returns:
        each metric's mean; ``interval``: its 95 % bootstrap interval over users; ``examples``;
        ``coverage@10``: share of all items that were recommended to anybody;
        ``mean_popularity@10``: mean training count of the recommended items; ``by_length``:
        HR@10 and NDCG@10 with intervals by the length of the history.
    """
    names, values = _all_metrics(ranked.rank_M)
    intervals = bootstrap_intervals(values, examples.user_M, seed=seed)
    shown = ranked.top_MxK[ranked.top_MxK > 0]
    return {
        **mean_metrics(ranked.rank_M),
        "interval": dict(zip(names, intervals.tolist(), strict=True)),
        "examples": len(examples),
        f"coverage@{TOP}": np.unique(shown).size / max(1, popularity_V.size - 1),
        f"mean_popularity@{TOP}": float(popularity_V[shown].mean()) if shown.size else 0.0,
        "by_length": _by_length(values, examples, seed),
    }


def summarise_cold(
    ranked: Ranked, examples: Examples, popularity_V: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return the results of the targets that training has seen, "warm", and of all others, "cold".

    Arguments are those of ``summarise``; of kinds that no target is of, there are none.
    """
    cold_M = popularity_V[examples.items_T[examples.target_M]] == 0
    found = {}
    for name, chosen_M in (("warm", ~cold_M), ("cold", cold_M)):
        if chosen_M.any():
            fields = ("start_M", "target_M", "user_M")
            part = replace(examples, **{one: getattr(examples, one)[chosen_M] for one in fields})
            own = Ranked(ranked.rank_M[chosen_M], ranked.top_MxK[chosen_M])
            found[name] = summarise(own, part, popularity_V)
    return found


def _by_length(values: np.ndarray, examples: Examples, seed: int) -> list[dict[str, Any]]:
    length_M = examples.target_M - examples.start_M
    columns = [metric_names().index(name) for name in ("hr@10", "ndcg@10")]
    buckets = []
    for first, after in zip(_LENGTHS, (*_LENGTHS[1:], None), strict=True):
        inside = (length_M >= first) & (length_M < (after or np.inf))
        if not inside.any():
            continue
        part = values[inside][:, columns]
        intervals = bootstrap_intervals(part, examples.user_M[inside], seed=seed).tolist()
        hr, ndcg = part.mean(axis=0).tolist()
        buckets.append(
            {
                "from": first,
                "to": None if after is None else after - 1,
                "examples": int(inside.sum()),
                "hr@10": hr,
                "ndcg@10": ndcg,
                "interval": {"hr@10": intervals[0], "ndcg@10": intervals[1]},
            }
        )
    return buckets
