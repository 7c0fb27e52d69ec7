"""What several seeds say together: means, spreads, and intervals over users."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from echojax.arrays import read_arrays
from echojax.config import Config, as_dict
from echojax.evaluation.metrics import metric_names, metrics_of
from echojax.evaluation.statistics import bootstrap_intervals
from echojax.files import write_json
from echojax.training.results import PARTS


def summarise_seeds(
    folder: Path, config: Config, results: list[dict[str, Any]], console: Console
) -> None:
    """Write ``seeds.json`` into the folder that holds the seeds' run folders, and print it.

    Its entry for each part and metric has the ``mean`` over seeds, their standard deviation
    (``spread``, n - 1), each seed's ``values``, and the 95 % bootstrap ``interval`` of the mean
    over users.
    """
    folders = [folder / f"seed-{one['seed']}" for one in results]
    summary = {
        "config": as_dict(config),
        "seeds": [one["seed"] for one in results],
        **{part: _part(part, folders, results) for part in PARTS},
        "seconds": max(one["train"]["seconds"] for one in results),
    }
    write_json(folder / "seeds.json", summary)
    console.print(_table(summary))
    console.print(f"seeds: {folder / 'seeds.json'}", highlight=False, soft_wrap=True)


def _part(part: str, folders: list[Path], results: list[dict[str, Any]]) -> dict[str, Any]:
    ranks = []
    for folder in folders:
        arrays = read_arrays(folder / "ranks.npz", (f"{part}_rank_M", f"{part}_user_M"))
        ranks.append(arrays[f"{part}_rank_M"])
        user_M = arrays[f"{part}_user_M"]
    mean_MxF = np.mean([metrics_of(rank_M) for rank_M in ranks], axis=0)
    intervals = bootstrap_intervals(mean_MxF, user_M)
    summary = {}
    for name, interval in zip(metric_names(), intervals.tolist(), strict=True):
        values = [one[part][name] for one in results]
        summary[name] = {
            "mean": float(np.mean(values)),
            "spread": float(np.std(values, ddof=1)),
            "values": values,
            "interval": interval,
        }
    return summary


def _table(summary: dict[str, Any]) -> Table:
    table = Table(title=f"{len(summary['seeds'])} seeds: mean +- spread [95 % over users]")
    table.add_column("")
    for part in PARTS:
        table.add_column(part)
    for name in metric_names():
        cells = []
        for part in PARTS:
            one = summary[part][name]
            low, high = one["interval"]
            cells.append(f"{one['mean']:.4f} +- {one['spread']:.4f} [{low:.4f}, {high:.4f}]")
        table.add_row(name.upper(), *cells)
    return table
