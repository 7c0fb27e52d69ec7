"""The end of a run: best parameters judged beside the baselines, written, reported."""

import platform
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from echojax.arrays import write_arrays
from echojax.config import Config, as_dict
from echojax.data import Dataset, Examples, Split
from echojax.evaluation.baselines import evaluate_baselines
from echojax.evaluation.metrics import summarise
from echojax.evaluation.ranking import TIES, Ranked
from echojax.files import write_json
from echojax.machine import commit, device_name, processor
from echojax.models.heuristic import training_counts
from echojax.report import results_table, write_report
from echojax.training.progress import Standing

PARTS = ("valid", "test")
PACKAGES = ("echojax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def say_data(say: Callable[[str], None], dataset: Dataset, split: Split) -> None:
    """Print the data's fingerprint and the size of each part."""
    facts = dataset.fingerprint
    if source := facts.get("source"):
        say(f"file: {source['file']}  format {source['format']}  sha256 {source['sha256'][:12]}")
    known = facts.get("time") != "position"
    ties = f"tie share {facts['tie_share']:.2f}" if known else "no times: order as in the file"
    lengths = "/".join(str(n) for n in facts["history_length"].values())
    say(
        f"data: {dataset.name}  {facts['users']:,} users  {facts['items']:,} items  "
        f"{facts['interactions']:,} interactions  {ties}"
    )
    say(f"      history length min/25/50/75/95/max {lengths}  sha256 {facts['sha256'][:12]}")
    raw, repeated = facts["raw"], facts["duplicates"]
    say(
        f"      {raw['interactions']:,} interactions before {facts['k_core']}-core, "
        f"{repeated['pairs']:,} repeated user-item pairs ({repeated['handling']})"
    )
    say(
        f"      {len(split.train):,} training, {len(split.valid):,} validation, "
        f"{len(split.test):,} test examples"
    )


def finish(
    folder: Path,
    config: Config,
    dataset: Dataset,
    split: Split,
    ranked: dict[str, Ranked],
    standing: Standing,
    reason: str,
    console: Console,
    *,
    steps_per_epoch: int = 1,
    parameters: int = 0,
) -> dict[str, Any]:
    """Write results and report of a finished run and print them; return the results.

    ``ranked`` holds the ranks of each of ``PARTS`` by the best parameters, ``reason`` says why
    training ended, ``parameters`` how many numbers the model has learned.
    """
    counts_V = training_counts(split.train, dataset.num_items)
    seconds = standing.seconds
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
        "baselines": evaluate_baselines(dataset, split, exclude_seen=config.exclude_seen),
        "train": {
            "steps": standing.steps,
            "epochs": standing.steps / steps_per_epoch,
            "best_epoch": standing.best_epoch,
            "best_step": standing.best_step,
            "seconds": seconds,
            "examples_per_second": standing.examples / seconds if seconds else 0.0,
            "input_wait_share": standing.waited / seconds if seconds else 0.0,
            "examples": len(split.train),
            "seeds_at_once": standing.seeds_at_once,
            "peak_memory_bytes": standing.memory_bytes,
            "stopped": reason,
            "parameters": parameters,
        },
        "versions": package_versions(),
        "commit": ", then ".join(standing.commits) or commit(),
        "device": trained_and_tested(standing.devices, device_name()),
        "processor": processor(),
        "date": date.today().isoformat(),
    }
    _write_ranks(folder / "ranks.npz", ranked, split)
    write_json(folder / "results.json", results)
    page = write_report(folder)
    console.print(results_table(results))
    console.print(f"results: {folder / 'results.json'}", highlight=False, soft_wrap=True)
    console.print(f"report:  {page}", highlight=False, soft_wrap=True)
    return results


def _write_ranks(path: Path, ranked: dict[str, Ranked], split: Split) -> None:
    """Write each target's rank, user and history length, for paired comparisons."""
    arrays: dict[str, Any] = {}
    for part in PARTS:
        examples: Examples = getattr(split, part)
        arrays[f"{part}_rank_M"] = ranked[part].rank_M
        arrays[f"{part}_user_M"] = examples.user_M
        arrays[f"{part}_length_M"] = (examples.target_M - examples.start_M).astype(np.int32)
    write_arrays(path, arrays)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of every package that shapes a result."""
    return {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}}


def trained_and_tested(trained: list[str], here: str) -> str:
    """Return which devices trained a model, and that it was tested ``here`` if on another one."""
    if not trained:
        return here
    tested = "" if here == trained[-1] else f", tested on {here}"
    return f"{', then '.join(trained)}{tested}"
