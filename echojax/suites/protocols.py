"""A finished run under alternative protocols: seen items kept or filtered, full or sampled ranking.

None of this selects anything: the checkpoint is the best one by validation NDCG@10 under the run's
own protocol.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from echojax.arrays import write_arrays
from echojax.evaluation.baselines import fit_heuristic, rank_by
from echojax.evaluation.metrics import SHOWN, metrics_of
from echojax.evaluation.sampled import (
    NEGATIVES,
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
from echojax.suites.results import (
    PROTOCOLS_JSON,
    PROTOCOLS_NPZ,
    Protocol,
    read_alternatives,
    results_sha256,
)
from echojax.suites.scores import COLUMNS
from echojax.training.builders import read_run_data
from echojax.training.checkpoints import load_checkpoint
from echojax.training.evaluate import encoder_and_items, make_evaluator
from echojax.training.run_folder import read_config


def evaluate_if_missing(folder: Path, data_dir: str | None) -> bool:
    """Write ``protocols.json`` and its ranks into a run folder; return ``False`` if it has them."""
    if read_alternatives(folder):
        return False
    config = read_config(folder)
    dataset, split = read_run_data(folder, config, data_dir=data_dir)
    if config.model in HEURISTICS:
        score = fit_heuristic(config, split, dataset.num_items)
        score_candidates = candidates_of(score)
    else:
        best_step = read_json(folder / "results.json")["train"]["best_step"]
        graphdef, params, *_ = load_checkpoint(folder, config, dataset.num_items, step=best_step)
        evaluator = make_evaluator(config, dataset, split, graphdef, one_device())
        encoder = encoder_and_items(config, graphdef, one_device())
        score_candidates = candidate_scorer(*encoder, params)

    test, entries = split.test, []
    arrays = {"test_user_M": test.user_M, "test_length_M": test.target_M - test.start_M}
    for exclude_seen in (False, True):
        if config.model in HEURISTICS:
            ranked = rank_by(score, test, dataset.num_items, exclude_seen=exclude_seen)
        else:
            changed = dataclasses.replace(config, exclude_seen=exclude_seen)
            ranked = dataclasses.replace(evaluator, config=changed).rank(params, "test")
        rank_M = ranked.rank_M
        entries.append(_entry(Protocol(config.split, "full", exclude_seen), rank_M, test.user_M))
        if exclude_seen != config.exclude_seen:
            arrays["test_rank_M"] = rank_M
    counts_V = training_counts(split.train, dataset.num_items)
    for name, weights_V in (("uniform", None), ("popularity", counts_V)):
        drawn_MxC = draw_negatives(test, dataset.num_items, weights_V=weights_V)
        rank_M = rank_sampled(score_candidates, test, drawn_MxC)
        protocol = Protocol(config.split, f"{NEGATIVES} sampled, {name}", True)
        entries.append(_entry(protocol, rank_M, test.user_M))
    write_arrays(folder / PROTOCOLS_NPZ, arrays)
    content = {"results_sha256": results_sha256(folder), "judged": entries}
    write_json(folder / PROTOCOLS_JSON, content)
    return True


def _entry(protocol: Protocol, rank_M: np.ndarray, user_M: np.ndarray) -> dict[str, Any]:
    """Return the test metrics of ranks under a protocol, as ``protocols.json`` has them."""
    # All metrics together, as for results.json: the same ranks give the same numbers.
    values_MxF = metrics_of(rank_M)
    intervals = bootstrap_intervals(values_MxF, user_M)[COLUMNS].tolist()
    return {
        **protocol._asdict(),
        "examples": rank_M.size,
        **dict(zip(SHOWN, values_MxF.mean(axis=0)[COLUMNS].tolist(), strict=True)),
        "interval": dict(zip(SHOWN, intervals, strict=True)),
    }
