"""The end of a run: best parameters judged beside the baselines, written, reported."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from rich.console import Console

from echojax.config import Config, as_dict
from echojax.data import Dataset, Split
from echojax.evaluation.baselines import evaluate_baselines
from echojax.evaluation.ranking import TIES
from echojax.files import write_json
from echojax.models import build_model
from echojax.reporting import results_table, write_report
from echojax.training.filters import write_filters
from echojax.training.prepared import Evaluator

PACKAGES = ("echojax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def say_data(say: Callable[[str], None], dataset: Dataset, split: Split) -> None:
    """Print the data's fingerprint and the size of each part."""
    facts = dataset.fingerprint
    if source := facts.get("source"):
        say(f"file: {source['file']}  format {source['format']}  sha256 {source['sha256'][:12]}")
    lengths = "/".join(str(n) for n in facts["history_length"].values())
    say(
        f"data: {dataset.name}  {facts['users']:,} users  {facts['items']:,} items  "
        f"{facts['interactions']:,} interactions  tie share {facts['tie_share']:.2f}"
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
    params: nnx.State,
    evaluate: Evaluator,
    standing: dict[str, Any],
    reason: str,
    console: Console,
) -> None:
    """Evaluate the best parameters on validation and test; write results, filters and report."""
    before = build_model(config, dataset.num_items)
    write_filters(folder / "filters.npz", before, nnx.merge(nnx.graphdef(before), params))
    seconds, examples = standing["seconds"], standing["examples"]
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
        "valid": evaluate(params, "valid"),
        "test": evaluate(params, "test"),
        "baselines": evaluate_baselines(dataset, split, exclude_seen=config.exclude_seen),
        "train": {
            "steps": standing["steps"],
            "epochs": standing["steps"] / -(-len(split.train) // (config.batch_size or 1)),
            "best_epoch": standing["best_epoch"],
            "best_step": standing["best_step"],
            "seconds": seconds,
            "examples_per_second": examples / seconds if seconds else 0.0,
            "input_wait_share": standing["waited"] / seconds if seconds else 0.0,
            "examples": len(split.train),
            "stopped": reason,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        },
        "versions": package_versions(),
        "device": device_name(),
    }
    write_json(folder / "results.json", results)
    page = write_report(folder)
    console.print(results_table(results))
    console.print(f"results: {folder / 'results.json'}", highlight=False, soft_wrap=True)
    console.print(f"report:  {page}", highlight=False, soft_wrap=True)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of every package that shapes a result."""
    return {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}}


def device_name() -> str:
    """Return the devices in words, as "2 cores of x86_64 (cpu)" or "8 x NVIDIA H200 (gpu)"."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{len(os.sched_getaffinity(0))} cores of {platform.machine()} (cpu)"
    return f"{jax.device_count()} x {device.device_kind} ({device.platform})"
