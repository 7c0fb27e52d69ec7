"""A run folder read back, whole or as far as the run has come."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from echojax.arrays import read_arrays
from echojax.errors import UserError
from echojax.files import read_json
from echojax.run_files import read_records, read_results

# What was found where: name -> (before training, after).
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class RunRecord:
    """What a run folder holds.

    Attributes:
        name: the folder's name.
        config: the configuration.
        train: records of training steps, in order.
        valid: records of validations, in order.
        results: ``results.json``; ``None`` while the run is not over.
        insight: what ``insight.npz`` holds (``echojax.insight.write_insight``), by its first word:
            "filter", "time_steps", "memory", "influence".
    """

    name: str
    config: dict[str, Any]
    train: list[dict[str, Any]]
    valid: list[dict[str, Any]]
    results: dict[str, Any] | None
    insight: dict[str, Pairs]

    @property
    def best(self) -> dict[str, Any] | None:
        """The validation with the highest NDCG@10, the first of equal ones."""
        return max(self.valid, key=lambda record: record["ndcg@10"], default=None)


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        UserError: it is not a run folder, or one of its files is damaged.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is not a run folder (it has no config.json)")
    log = read_records(folder / "metrics.jsonl")
    results = folder / "results.json"
    return RunRecord(
        name=folder.resolve().name,
        config=read_json(folder / "config.json"),
        train=[record for record in log if record["kind"] == "train"],
        valid=[record for record in log if record["kind"] == "valid"],
        results=read_results(results) if results.exists() else None,
        insight=_read_insight(folder / "insight.npz"),
    )


def _read_insight(path: Path) -> dict[str, Pairs]:
    found: dict[str, Pairs] = {}
    arrays = read_arrays(path) if path.exists() else {}
    for name in [name for name in arrays if name.endswith("/after")]:
        where = name.removesuffix("/after")
        kind, _, part = where.partition("/")
        if f"{where}/before" not in arrays:
            raise UserError(f"{path} has no {where}/before; delete it to do without")
        found.setdefault(kind, {})[part] = arrays[f"{where}/before"], arrays[name]
    return found


class MetricRow(NamedTuple):
    """One metric of all systems: (mean, 95 % interval where there is one) each."""

    label: str
    digits: int
    values: list[tuple[float, tuple[float, float] | None]]


def systems_of(results: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """Return name -> results of one part: the model, the baselines, the optimum if known."""
    baselines = results.get("baselines", {})
    named = {"Markov" if name == "markov" else name: baselines[name][part] for name in baselines}
    return {"model": results[part], **named}


def rows_of_metrics(systems: dict[str, dict[str, Any]]) -> list[MetricRow]:
    """Return all metrics of the systems, those with intervals first."""
    model = systems["model"]
    rows = [
        MetricRow(
            label_of(name),
            4,
            [(one[name], tuple(one["interval"][name])) for one in systems.values()],
        )
        for name in model["interval"]
    ]
    for name, label, digits in (
        ("coverage@10", "Coverage@10", 4),
        ("mean_popularity@10", "Popularity@10", 1),
    ):
        if name in model:
            rows.append(MetricRow(label, digits, [(one[name], None) for one in systems.values()]))
    return rows


def label_of(metric: str) -> str:
    """Return how a metric is written: hr@10 -> HR@10."""
    return metric.upper()
