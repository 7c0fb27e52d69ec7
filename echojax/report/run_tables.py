"""Tables of the scores of a run and its baselines, for its page and for the terminal."""

from collections.abc import Mapping
from typing import Any

import rich.table

from echojax.report.tables import Cell, Table
from echojax.run_files import metrics_in

BEYOND_ACCURACY = {  # label and format
    "coverage@10": ("Coverage@10", ".4f"),
    "mean_popularity@10": ("Popularity@10", ",.1f"),
    "novelty@10": ("Novelty@10", ".2f"),
    "gini@10": ("Gini@10", ".4f"),
    "serendipity@10": ("Serendipity@10", ".4f"),
    "ece": ("ECE", ".4f"),
}
_MOST_INTERVALS = 4  # that fit into 80 columns


def systems_of(results: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """Return the results of a part by name: of the model, the baselines and any optimum."""
    baselines = results.get("baselines", {})
    labels = {"markov": "Markov", "lagged-count": "lagged count"}
    named = {labels.get(name, name): baselines[name][part] for name in baselines}
    return {"model": results[part], **named}


def lagged_count_sizes(found: Mapping[str, Any]) -> str:
    """Return J and a of a lagged count as text; older runs, which record none, had fixed ones."""
    return f"J {found.get('lags') or 4}, a {found.get('damping', 0.5):g}"


def score_table(results: dict[str, Any], part: str, *, half_intervals: bool = False) -> Table:
    """Return all metrics of model and baselines on "valid" or "test", with intervals first.

    With ``half_intervals``, intervals are written as ± half of their width, and if there are many
    baselines, only for the model, so that the table fits into 80 columns.
    """
    systems = systems_of(results, part)
    rows: list[list[Any]] = []
    names = [metrics_in(one) for one in systems.values()]
    for metric in [name for name in names[0] if all(name in others for others in names)]:
        row: list[Any] = [metric.upper()]
        for name, one in systems.items():
            cell = _cell(one, metric, half=half_intervals, best=name == "model")
            if half_intervals and len(systems) > _MOST_INTERVALS and name != "model":
                cell = cell._replace(note="")
            row.append(cell)
        rows.append(row)
    for metric, (label, form) in BEYOND_ACCURACY.items():
        if metric in results[part]:
            row = [label]
            for name, one in systems.items():
                value = format(one[metric], form) if metric in one else "–"
                row.append(Cell(value, best=name == "model"))
            rows.append(row)
    title = "Validation scores" if part == "valid" else "Test scores"
    if half_intervals:
        title = f"{part}: {results[part]['examples']:,} examples, ± half of the 95 % interval"
    notes = []
    if found := results.get("baselines", {}).get("lagged-count"):
        notes = [f"Lagged count: {lagged_count_sizes(found)}, chosen by validation."]
    every, ranked = results[part]["examples"], min(one["examples"] for one in systems.values())
    if ranked < every:
        notes.append(f"Baselines: on {ranked:,} of the {every:,} examples, evenly spaced.")
    return Table(["", *systems], rows, title, notes)


def cold_table(results: dict[str, Any]) -> Table | None:
    """Return the model's test scores for items that occur in training, and for other items.

    The result is ``None`` unless the split is cold-items and the run has item vectors.
    """
    parts = results.get("cold_items")
    if not parts:
        return None
    columns = {f"{name} items": one for name, one in parts.items()}
    metrics = metrics_in(next(iter(parts.values())))
    rows = [
        [metric.upper(), *(_cell(one, metric, half=True) for one in columns.values())]
        for metric in metrics
    ]
    rows.append(["Test targets", *(f"{one['examples']:,}" for one in columns.values())])
    return Table(["", *columns], rows, "test: items of training (warm) and others (cold)")


def _cell(one: dict[str, Any], metric: str, *, half: bool, best: bool = False) -> Cell:
    low, high = one["interval"][metric]
    note = f"±{(high - low) / 2:.4f}" if half else f"{low:.4f}–{high:.4f}"
    return Cell(f"{one[metric]:.4f}", note, best)


def results_table(results: dict[str, Any], part: str = "test") -> rich.table.Table:
    """Return the scores of model, baselines and optimum as a table for the terminal."""
    return score_table(results, part, half_intervals=True).terminal()
