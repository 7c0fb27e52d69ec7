"""Metrics of ranks, of recommended lists and of confidence, also by history length."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from echojax.data import Examples
from echojax.errors import UserError, unknown_name
from echojax.evaluation.ranking import TOP, Ranked
from echojax.evaluation.statistics import bootstrap_intervals
from echojax.plugins import check_new_name

Metric = Callable[[np.ndarray], np.ndarray]

CUTOFFS = (5, 10, 20)
SHOWN = ("hr@10", "ndcg@10")  # the metrics of most tables and figures
_LENGTHS = (1, 5, 10, 20, 50, 100, 200)  # the shortest history of each bin of lengths
_BINS = 15  # of confidence, for the calibration error

# Metrics of an example, from its hit, its rank (float64) and the cutoff.
_OF_RANKS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "hr": lambda hit_M, rank_M, k: hit_M,
    "ndcg": lambda hit_M, rank_M, k: hit_M / np.log2(1 + rank_M),
    "mrr": lambda hit_M, rank_M, k: hit_M / rank_M,
    "recall": lambda hit_M, rank_M, k: hit_M,
    "precision": lambda hit_M, rank_M, k: hit_M / k,
    "map": lambda hit_M, rank_M, k: hit_M / rank_M,
}
OF_LISTS = ("coverage", "mean_popularity", "novelty", "gini", "serendipity")
OWN_OF_LISTS = tuple(f"{kind}@{TOP}" for kind in OF_LISTS)  # reported by every run
ECE = "ece"


def metric_names(cutoffs: Sequence[int] = CUTOFFS) -> list[str]:
    """Return hr@5, hr@10, ..., mrr@20: the metrics that every run reports."""
    return [f"{kind}@{k}" for kind in ("hr", "ndcg", "mrr") for k in cutoffs]


def named_metrics(
    metrics: str | Iterable[str] | None = None, cutoffs: Sequence[int] = CUTOFFS
) -> list[str]:
    """Return the full names of metrics, such as recall@5; ece and registered ones have no cutoff.

    ``None`` stands for the metrics that every run reports, and all registered ones. ``cutoffs`` are
    used for metrics that are given without a cutoff.
    """
    if not cutoffs:
        raise UserError("--ks names no cutoff; give one or more, such as 5,10")
    for cutoff in cutoffs:
        if not isinstance(cutoff, int | np.integer) or isinstance(cutoff, bool) or cutoff < 1:
            raise UserError(f"--ks takes whole numbers of at least 1, such as 5,10, not {cutoff!r}")
    if metrics is None:
        return [*metric_names(cutoffs), *REGISTERED]
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):  # from Python, anything
        metrics = (metrics,)
    kinds = [*_OF_RANKS, *OF_LISTS]
    names: list[str] = []
    for metric in metrics:
        kind, _, k = str(metric).partition("@")
        if metric in kinds:
            names += [f"{metric}@{cutoff}" for cutoff in cutoffs]
        elif metric in (ECE, *REGISTERED) or (kind in kinds and re.fullmatch("[1-9][0-9]{0,8}", k)):
            names.append(str(metric))
        else:
            raise unknown_name("metric", metric, [*kinds, ECE, *metric_names(), *REGISTERED])
    if not names:
        raise UserError("--metrics names no metric; give one or more, such as hr,ndcg")
    return list(dict.fromkeys(names))


def check_cutoffs(names: Iterable[str], items: int) -> None:
    """Raise ``UserError`` if the cutoff of a metric exceeds the number of items.

    The cutoffs that every run reports are exempt.
    """
    for name in names:
        if cutoff_of(name) > items and cutoff_of(name) not in CUTOFFS:
            raise UserError(f"{name}: there are only {items:,} items; name a smaller cutoff")


def cutoff_of(name: str) -> int:
    """Return the cutoff k of a full name; 0 if it has none."""
    k = name.partition("@")[2]
    return int(k) if name not in REGISTERED and k else 0


def example_metrics(rank_M: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return every example's metrics, (M, F) float64.

    Each example has one relevant item. If its rank is at most k, hit rate and recall are 1, NDCG is
    1/log2(1 + rank), reciprocal rank and average precision are 1/rank, and precision is 1/k;
    otherwise they are 0. This holds for every split: if a user has several targets, each is an
    example with its own history.
    """
    rank_M = rank_M.astype(np.float64)
    columns = []
    for name in names:
        if name in REGISTERED:
            columns.append(REGISTERED[name](rank_M))
        else:
            k = cutoff_of(name)
            columns.append(_OF_RANKS[name.partition("@")[0]](rank_M <= k, rank_M, k))
    return np.column_stack(columns).astype(np.float64)


def metrics_of(rank_M: np.ndarray) -> np.ndarray:
    """Return every example's metrics in the order of ``metric_names``, (M, F) float64."""
    return example_metrics(rank_M, metric_names())


REGISTERED: dict[str, Metric] = {}


def register_metric(name: str) -> Callable[[Metric], Metric]:
    """Register a function of ranks as a metric, which runs then validate, test and report too.

    The function is ``metric(rank_M) -> value_M``. It takes the rank of each example's target among
    all items, float64 from 1, and returns a number for each.

    Args:
        name: Such as ``hr@1``. Registering a name again replaces its function.

    Raises:
        UserError: The name belongs to echojax itself.
    """
    own = [*_OF_RANKS, *OF_LISTS, *metric_names(), *OWN_OF_LISTS, ECE]
    check_new_name("metric", name, own)

    def register(metric: Metric) -> Metric:
        REGISTERED[name] = metric
        return metric

    return register


def mean_metrics(
    rank_M: np.ndarray, names: Sequence[str] | None = None, items: int | None = None
) -> dict[str, float]:
    """Return the mean of each metric by name, by which a run chooses its best checkpoint.

    ``names`` are by default the metrics that every run reports, and all registered ones. With the
    number of ``items``, cutoffs are checked.
    """
    names = named_metrics() if names is None else names
    if items is not None:
        check_cutoffs(names, items)
    means_F = example_metrics(rank_M, names).mean(axis=0)
    return dict(zip(names, means_F.tolist(), strict=True))


def list_metrics(
    ranked: Ranked, examples: Examples, popularity_V: np.ndarray, k: int
) -> dict[str, float]:
    """Return metrics of the lists of the first k recommended items of all examples.

    - ``coverage``: the share of all items that are recommended in any list.
    - ``mean_popularity``: the mean number of training interactions of a recommended item (average
      recommendation popularity, Yin et al. 2012).
    - ``novelty``: the mean self-information -log2 p of a recommended item, where p is its share of
      the training interactions, of which it has at least one (Zhou et al. 2010).
    - ``gini``: the Gini coefficient of how often each item is recommended; 0 if equally often.
    - ``serendipity``: the share of examples whose target is among the first k and not among the k
      most popular items, which a primitive recommender would have given (Ge et al. 2010); ties
      count against the popularity ranking, as in every ranking.

    All but ``serendipity`` are 0 if nothing is recommended.
    """
    shown = ranked.top_MxK[:, :k]
    shown, items = shown[shown > 0], popularity_V.size - 1
    count_V = np.bincount(shown, minlength=popularity_V.size)[1:]
    popularity_V = popularity_V[1:]
    information_V = -np.log2(np.maximum(popularity_V, 1) / max(1, popularity_V.sum()))
    place_V = np.arange(1, items + 1)
    target_M = examples.items_T[examples.target_M] - 1
    as_popular_M = items - np.searchsorted(np.sort(popularity_V), popularity_V[target_M])
    some = max(1, shown.size)
    values = (
        int(np.count_nonzero(count_V)) / max(1, items),
        float(popularity_V[shown - 1].mean()) if shown.size else 0.0,
        float(count_V @ information_V / some),
        float((2 * place_V - items - 1) @ np.sort(count_V) / (max(1, items) * some)),
        float(np.mean((ranked.rank_M <= k) & (as_popular_M > k))),
    )
    return {f"{kind}@{k}": value for kind, value in zip(OF_LISTS, values, strict=True)}


def calibration_error(confidence_M: np.ndarray, correct_M: np.ndarray) -> float:
    """Return the expected calibration error (Guo et al. 2017).

    Examples are put into 15 bins of equal width by ``confidence_M``, each closed above. The error
    is the absolute difference between mean confidence and share of ``correct_M`` in a bin, averaged
    over examples.
    """
    bin_M = np.clip(np.ceil(confidence_M.astype(np.float64) * _BINS).astype(int) - 1, 0, None)
    gap_B = np.bincount(bin_M, confidence_M.astype(np.float64) - correct_M)
    return float(np.abs(gap_B).sum() / confidence_M.size)


def measure(
    ranked: Ranked,
    examples: Examples,
    popularity_V: np.ndarray,
    names: Sequence[str],
) -> dict[str, Any]:
    """Return metrics by their full names, JSON-able; the arguments are those of ``summarise``.

    ``interval`` holds the intervals of those metrics that are means over examples; ``examples`` is
    the number of examples.
    """
    values: dict[str, float] = {}
    for k in sorted({cutoff_of(name) for name in names if _of_lists(name)}):
        values |= list_metrics(ranked, examples, popularity_V, k)
    if ECE in names:
        if ranked.confidence_M is None:
            raise UserError("--metrics ece is of a learned model; a baseline has no probabilities")
        values[ECE] = calibration_error(ranked.confidence_M, ranked.rank_M == 1)
    intervals = {}
    if columns := [name for name in names if name != ECE and not _of_lists(name)]:
        values_MxF = example_metrics(ranked.rank_M, columns)
        values |= zip(columns, values_MxF.mean(axis=0).tolist(), strict=True)
        found = bootstrap_intervals(values_MxF, examples.user_M).tolist()
        intervals = dict(zip(columns, found, strict=True))
    ordered = {name: values[name] for name in names}
    return {**ordered, "interval": intervals, "examples": len(examples)}


def lists_wanted(names: Iterable[str]) -> int:
    """Return how many recommended items per example these metrics need; 0 if only the ranks."""
    lengths = (cutoff_of(name) if _of_lists(name) else int(name == ECE) for name in names)
    return max(lengths, default=0)


def _of_lists(name: str) -> bool:
    return name not in REGISTERED and name.partition("@")[0] in OF_LISTS


def summarise(ranked: Ranked, examples: Examples, popularity_V: np.ndarray) -> dict[str, Any]:
    """Return the results of one evaluation, JSON-able.

    They hold the mean of each metric; ``interval``, the 95 % bootstrap intervals over users;
    ``examples``, their number; the ``list_metrics`` at 10; ``ece``, the calibration error of the
    softmax probability of the first item, if there is one; and ``by_length``, HR@10 and NDCG@10
    with intervals by the length of the history. ``popularity_V`` are the training interactions of
    each item.
    """
    names = named_metrics()
    calibration = [] if ranked.confidence_M is None else [ECE]
    wanted = [*names, *OWN_OF_LISTS, *calibration]
    found = measure(ranked, examples, popularity_V, wanted)
    return found | {"by_length": _by_length(ranked.rank_M, examples)}


def summarise_cold(
    ranked: Ranked, examples: Examples, popularity_V: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return the results for targets that occur in training, "warm", and for the others, "cold".

    The arguments are those of ``summarise``. A kind without targets is left out.
    """
    cold_M = popularity_V[examples.items_T[examples.target_M]] == 0
    found = {}
    for name, chosen_M in (("warm", ~cold_M), ("cold", cold_M)):
        if chosen_M.any():
            confidence_M = None if ranked.confidence_M is None else ranked.confidence_M[chosen_M]
            own = Ranked(ranked.rank_M[chosen_M], ranked.top_MxK[chosen_M], confidence_M)
            found[name] = summarise(own, examples.at(chosen_M), popularity_V)
    return found


def _by_length(rank_M: np.ndarray, examples: Examples) -> list[dict[str, Any]]:
    length_M, values_MxF = examples.target_M - examples.start_M, metrics_of(rank_M)
    columns = [metric_names().index(name) for name in SHOWN]
    buckets = []
    for first, after in zip(_LENGTHS, (*_LENGTHS[1:], None), strict=True):
        inside = (length_M >= first) & (length_M < (after or np.inf))
        if not inside.any():
            continue
        part = values_MxF[inside][:, columns]
        intervals = bootstrap_intervals(part, examples.user_M[inside]).tolist()
        buckets.append(
            {
                "from": first,
                "to": None if after is None else after - 1,
                "examples": int(inside.sum()),
                **dict(zip(SHOWN, part.mean(axis=0).tolist(), strict=True)),
                "interval": dict(zip(SHOWN, intervals, strict=True)),
            }
        )
    return buckets
