"""The end of a run: its best parameters and the baselines are evaluated, written and reported."""

import logging
import time
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from echojax.arrays import read_arrays, write_arrays
from echojax.config import Config, as_dict
from echojax.data import Dataset, Examples, Split
from echojax.data.order import order_words
from echojax.evaluation.baselines import evaluate_baselines, fit_heuristic, rank_by
from echojax.evaluation.metrics import (
    example_metrics,
    named_metrics,
    summarise,
    summarise_cold,
)
from echojax.evaluation.ranking import TIES, Ranked
from echojax.evaluation.statistics import seed_estimates
from echojax.files import write_json
from echojax.machine import commit, device_name, processor, versions
from echojax.models.heuristic import training_counts
from echojax.report import cold_table, results_table, write_report
from echojax.training.progress import TrainingProgress

log = logging.getLogger(__name__)

PARTS = ("valid", "test")
# Those that shape a result.
PACKAGES = ("echojax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def log_data(dataset: Dataset, split: Split) -> None:
    """Log the data's fingerprint and the size of each part."""
    facts = dataset.fingerprint
    if "file" in (source := facts.get("source", {})):
        log.info(
            f"file: {source['file']}  format {source['format']}  sha256 {source['sha256'][:12]}"
        )
    known = facts.get("time") != "position"
    ties = f"tie share {facts['tie_share']:.2f}" if known else "no times: order as in the file"
    ties += f", {order_words(facts)}" if "order" in facts else ""
    lengths = "/".join(str(n) for n in facts["history_length"].values())
    log.info(
        f"data: {dataset.name}  {facts['users']:,} users  {facts['items']:,} items  "
        f"{facts['interactions']:,} interactions  {ties}"
    )
    log.info(f"      history length min/25/50/75/95/max {lengths}  sha256 {facts['sha256'][:12]}")
    raw, repeated = facts["raw"], facts["duplicates"]
    log.info(
        f"      {raw['interactions']:,} interactions before {facts['k_core']}-core, "
        f"{repeated['pairs']:,} repeated user-item pairs ({repeated['handling']})"
    )
    if (vectors := facts.get("item_vectors")) is not None:
        unseen = dataset.num_items - dataset.num_learned
        log.info(
            f"      item vectors of {vectors['size']} numbers; {unseen:,} items that training "
            f"never sees, {vectors['items_without_events']:,} of them not in the data, are scored "
            "by theirs"
        )
    log.info(
        f"      {len(split.train):,} training, {len(split.valid):,} validation, "
        f"{len(split.test):,} test examples"
    )


class Trained(NamedTuple):
    """How a model was trained."""

    progress: TrainingProgress
    stopped: str  # why training ended
    steps_per_epoch: int = 1
    parameters: int = 0  # how many numbers the model has learned

    def facts(self, examples: int) -> dict[str, Any]:
        """Return the part ``train`` of ``results.json``; ``examples`` is the size of an epoch."""
        progress, seconds = self.progress, self.progress.seconds
        return {
            "steps": progress.steps,
            "epochs": progress.steps / self.steps_per_epoch,
            "best_epoch": progress.best_epoch,
            "best_step": progress.best_step,
            "seconds": seconds,
            "examples_per_second": progress.examples / seconds if seconds else 0.0,
            "input_wait_share": progress.waited / seconds if seconds else 0.0,
            "examples": examples,
            "seeds_at_once": progress.seeds_at_once,
            "peak_memory_bytes": progress.memory_bytes,
            "stopped": self.stopped,
            "parameters": self.parameters,
        }


def finish(
    folder: Path,
    config: Config,
    dataset: Dataset,
    split: Split,
    ranked: dict[str, Ranked],
    trained: Trained,
    baselines: dict[str, dict[str, Any]],
    console: Console,
) -> dict[str, Any]:
    """Write results and report of a finished run and print them; return the results.

    ``ranked`` holds the ranks of each of ``PARTS`` by the best parameters, ``baselines`` what
    ``evaluate_baselines`` returns.
    """
    counts_V, progress = training_counts(split.train, dataset.num_items), trained.progress
    results = {
        "config": as_dict(config),
        "seed": config.seed,
        "dataset": {"name": dataset.name, **dataset.fingerprint},
        "protocol": {
            **split.facts,
            "ranking": "full",
            "exclude_seen": config.exclude_seen,
            "ties": TIES,
            "selection": "validation NDCG@10",
        },
        **{part: summarise(ranked[part], getattr(split, part), counts_V) for part in PARTS},
        "baselines": baselines,
        "train": trained.facts(len(split.train)),
        "versions": versions(PACKAGES),
        "commit": ", then ".join(progress.commits) or commit(),
        "device": trained_and_tested(progress.devices, device_name()),
        "processor": processor(),
        "date": date.today().isoformat(),
    }
    if dataset.item_vectors is not None or config.split == "cold-items":
        results["cold_items"] = summarise_cold(ranked["test"], split.test, counts_V)
    _write_ranks(folder / "ranks.npz", ranked, split)
    write_json(folder / "results.json", results)
    page = write_report(folder)
    console.print(results_table(results))
    if table := cold_table(results):
        console.print(table.terminal())
    console.print(f"results: {folder / 'results.json'}", highlight=False, soft_wrap=True)
    console.print(f"report:  {page}", highlight=False, soft_wrap=True)
    return results


def run_heuristic(
    folder: Path, config: Config, dataset: Dataset, split: Split, console: Console
) -> None:
    """Fit, evaluate and report a heuristic model."""
    began = time.perf_counter()
    score = fit_heuristic(config, split, dataset.num_items)
    progress = TrainingProgress(seconds=time.perf_counter() - began, examples=len(split.train))
    ranked = {
        part: rank_by(
            score, getattr(split, part), dataset.num_items, exclude_seen=config.exclude_seen
        )
        for part in PARTS
    }
    baselines = evaluate_baselines(dataset, split, exclude_seen=config.exclude_seen)
    trained = Trained(progress, "counted")
    finish(folder, config, dataset, split, ranked, trained, baselines, console)


def trained_and_tested(trained: list[str], here: str) -> str:
    """Return which devices trained a model, and the one it was tested on, ``here``, if another."""
    if not trained:
        return here
    tested = "" if here == trained[-1] else f", tested on {here}"
    return f"{', then '.join(trained)}{tested}"


def summarise_seeds(
    folder: Path, config: Config, results: list[dict[str, Any]], console: Console
) -> None:
    """Write ``seeds.json`` into the folder of the seeds' run folders, and print it.

    Its entry for each part and metric has the ``mean`` over seeds, the standard deviation between
    them (``spread``, n - 1), each seed's ``values``, and the 95 % bootstrap ``interval`` of the
    mean over users.
    """
    folders = [folder / f"seed-{one['seed']}" for one in results]
    summary = {
        "config": as_dict(config),
        "seeds": [one["seed"] for one in results],
        **{part: _seeds_part(part, folders, results) for part in PARTS},
        "seconds": max(one["train"]["seconds"] for one in results),
    }
    write_json(folder / "seeds.json", summary)
    console.print(_seeds_table(summary))
    console.print(f"seeds: {folder / 'seeds.json'}", highlight=False, soft_wrap=True)


def _seeds_part(part: str, folders: list[Path], results: list[dict[str, Any]]) -> dict[str, Any]:
    rank, user = names = (f"{part}_rank_M", f"{part}_user_M")
    arrays = [read_arrays(folder / "ranks.npz", names) for folder in folders]
    metrics = named_metrics()
    values = [example_metrics(one[rank], metrics) for one in arrays]
    estimates = seed_estimates(values, arrays[0][user])
    return {
        name: {
            "mean": one.mean,
            "spread": one.spread,
            "values": [result[part][name] for result in results],
            "interval": one.interval,
        }
        for name, one in zip(metrics, estimates, strict=True)
    }


def _seeds_table(summary: dict[str, Any]) -> Table:
    title = f"{len(summary['seeds'])} seeds: mean +- spread [95 % over users]"
    table = Table("", *PARTS, title=title)
    for name in named_metrics():
        estimates = [summary[part][name] for part in PARTS]
        table.add_row(
            name.upper(),
            *(
                "{mean:.4f} +- {spread:.4f} [{interval[0]:.4f}, {interval[1]:.4f}]".format(**one)
                for one in estimates
            ),
        )
    return table


def _write_ranks(path: Path, ranked: dict[str, Ranked], split: Split) -> None:
    """Write each target's rank, user and history length, for paired comparisons."""
    arrays: dict[str, Any] = {}
    for part in PARTS:
        examples: Examples = getattr(split, part)
        arrays[f"{part}_rank_M"] = ranked[part].rank_M
        arrays[f"{part}_user_M"] = examples.user_M
        arrays[f"{part}_length_M"] = (examples.target_M - examples.start_M).astype(np.int32)
    write_arrays(path, arrays)
