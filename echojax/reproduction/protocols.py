"""A finished run judged in other ways: seen items in or out, full or sampled metrics.

None of this chooses anything: the checkpoint is the one that validation NDCG@10 of the run's own
protocol chose.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from echojax.arrays import write_arrays
from echojax.config import Config
from echojax.data import Dataset, Split
from echojax.evaluation.baselines import Scorer, rank_by, scorer
from echojax.evaluation.metrics import metrics_of
from echojax.evaluation.sampled import (
    NEGATIVES,
    CandidateScorer,
    candidate_scorer,
    candidates_of,
    draw_negatives,
    rank_sampled,
)
from echojax.evaluation.statistics import bootstrap_intervals
from echojax.files import read_json, write_json
from echojax.mesh import one_device
from echojax.models import HEURISTICS
from echojax.models.heuristic import training_counts
from echojax.reproduction.finished import COLUMNS, METRICS, Finished, read_ranks, stamps
from echojax.run_files import read_protocols, read_results
from echojax.training.builders import read_data
from echojax.training.checkpoints import load_checkpoint
from echojax.training.evaluate import encoder_and_items, make_evaluator
from echojax.training.run_folder import check_same_data, read_config

_NAME, _RANKS = "protocols.json", "protocols.npz"

# exclude_seen -> the rank of every test target among all items
FullRanker = Callable[[bool], np.ndarray]


class Way(NamedTuple):
    """How the test targets were ranked."""

    split: str
    ranking: str
    exclude_seen: bool


def judge_if_missing(folder: Path, data_dir: str | None) -> bool:
    """Write ``protocols.json`` and its ranks into a run folder, if they lack for these results.

    Returns:
        whether they did.

    Raises:
        UserError: the run's data or checkpoint are gone.
    """
    if read_judged(folder):
        return False
    judged, arrays = _judge(folder, data_dir)
    write_arrays(folder / _RANKS, arrays)
    write_json(folder / _NAME, {"results_sha256": _results_sha256(folder), "judged": judged})
    return True


def read_judged(folder: Path) -> dict[Way, Finished]:
    """Return a run's test results by the way it was judged.

    There is nothing where it was not, or has other results since. Ranks are kept of the full
    ranking with seen items on the other side; runs judged by early versions have none.
    """
    files = (folder / name for name in (_NAME, _RANKS, "results.json"))
    return _read(folder, stamps(*files)) if (folder / _NAME).exists() else {}


@cache
def _read(folder: Path, written: tuple[int, ...]) -> dict[Way, Finished]:
    kept = read_protocols(folder / _NAME)
    if kept["results_sha256"] != _results_sha256(folder):
        return {}
    protocol = read_results(folder / "results.json")["protocol"]
    other_side = Way(protocol["split"], "full", not protocol["exclude_seen"])
    ranks, judged = read_ranks(folder / _RANKS), {}
    for one in kept["judged"]:
        way = Way(one["split"], one["ranking"], one["exclude_seen"])
        judged[way] = Finished({"test": one}, ranks if way == other_side else None)
    return judged


def _results_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "results.json").read_bytes()).hexdigest()


def _judge(
    folder: Path, data_dir: str | None
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return the entries of the file, and the ranks with seen items on the other side."""
    config = read_config(folder)
    config = dataclasses.replace(config, data_dir=data_dir or config.data_dir)
    dataset, split = read_data(config)
    check_same_data(folder, dataset)
    kind = _counted if config.model in HEURISTICS else _learned
    rank_all, score_candidates = kind(folder, config, dataset, split)
    test = split.test
    arrays = {"test_user_M": test.user_M, "test_length_M": test.target_M - test.start_M}
    judged = []
    for how, rank_M in _ranks(rank_all, score_candidates, dataset, split):
        metrics = _metrics(rank_M, test.user_M)
        judged.append({"split": config.split, **how, "examples": rank_M.size, **metrics})
        if how["ranking"] == "full" and how["exclude_seen"] != config.exclude_seen:
            arrays["test_rank_M"] = rank_M
    return judged, arrays


def _ranks(
    rank_all: FullRanker, score: CandidateScorer, dataset: Dataset, split: Split
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yield each way to judge with the ranks of the test targets."""
    for exclude_seen in (False, True):
        yield {"ranking": "full", "exclude_seen": exclude_seen}, rank_all(exclude_seen)
    counts_V = training_counts(split.train, dataset.num_items)
    for name, weights_V in (("uniform", None), ("popularity", counts_V)):
        drawn_MxC = draw_negatives(split.test, dataset.num_items, weights_V=weights_V)
        how = {"ranking": f"{NEGATIVES} sampled, {name}", "exclude_seen": True}
        yield how, rank_sampled(score, split.test, drawn_MxC)


def _metrics(rank_M: np.ndarray, user_M: np.ndarray) -> dict[str, Any]:
    # All metrics together, as for results.json: the same ranks give the same numbers.
    values_MxF = metrics_of(rank_M)
    intervals = bootstrap_intervals(values_MxF, user_M)[COLUMNS].tolist()
    return {
        **dict(zip(METRICS, values_MxF.mean(axis=0)[COLUMNS].tolist(), strict=True)),
        "interval": dict(zip(METRICS, intervals, strict=True)),
    }


def _counted(
    folder: Path, config: Config, dataset: Dataset, split: Split
) -> tuple[FullRanker, CandidateScorer]:
    score: Scorer = scorer(HEURISTICS[config.model](split.train, dataset.num_items))

    def rank_all(exclude_seen: bool) -> np.ndarray:
        return rank_by(score, split.test, dataset.num_items, exclude_seen=exclude_seen).rank_M

    return rank_all, candidates_of(score)


def _learned(
    folder: Path, config: Config, dataset: Dataset, split: Split
) -> tuple[FullRanker, CandidateScorer]:
    """Return how the best checkpoint of a run ranks."""
    best_step = read_json(folder / "results.json")["train"]["best_step"]
    graphdef, params, *_ = load_checkpoint(folder, config, dataset.num_items, step=best_step)
    evaluator = make_evaluator(config, dataset, split, graphdef, one_device())

    def rank_all(exclude_seen: bool) -> np.ndarray:
        judge = dataclasses.replace(config, exclude_seen=exclude_seen)
        return dataclasses.replace(evaluator, config=judge).rank(params, "test").rank_M

    return rank_all, candidate_scorer(*encoder_and_items(config, graphdef, one_device()), params)
