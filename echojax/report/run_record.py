"""Reading a run folder, of a finished or an unfinished run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from echojax.arrays import read_arrays
from echojax.errors import UserError
from echojax.files import read_json
from echojax.run_files import read_records, read_results

# Arrays by name, each (before training, after training).
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]

_MAMBA = r"\d{1,2}/(forward|backward)"
_NAMES = {  # of the arrays of insight.npz, by kind
    "filter": r"\d{1,2}",
    "time_steps": _MAMBA,
    "memory": _MAMBA,
    "influence": r"(events|read)(/forward|/backward)?",
}


@dataclass(frozen=True)
class RunRecord:
    """The content of a run folder."""

    name: str  # the folder's name
    config: dict[str, Any]  # the configuration
    train: list[dict[str, Any]]  # records of training steps, in order
    valid: list[dict[str, Any]]  # records of validations, in order
    results: dict[str, Any] | None  # ``results.json``; ``None`` if the run is not finished
    # The arrays of ``insight.npz`` (``echojax.analysis.write_analysis``) by the first part of their
    # names: "filter", "time_steps", "memory", "influence".
    analysis: Mapping[str, Pairs]

    @property
    def best(self) -> dict[str, Any] | None:
        """The validation with the highest NDCG@10, the first of equal ones."""
        return max(self.valid, key=lambda record: record["ndcg@10"], default=None)


def read_run(folder: Path) -> RunRecord:
    """Read a run folder."""
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is not a run folder (it has no config.json)")
    config = read_json(folder / "config.json")
    log = read_records(folder / "metrics.jsonl")
    results, analysis = folder / "results.json", folder / "insight.npz"
    return RunRecord(
        name=folder.resolve().name,
        config=config,
        train=[record for record in log if record["kind"] == "train"],
        valid=[record for record in log if record["kind"] == "valid"],
        results=read_results(results) if results.exists() else None,
        analysis=read_analysis(analysis, config.get("max_len")) if analysis.exists() else {},
    )


def read_analysis(path: Path, max_len: object) -> dict[str, Pairs]:
    """Return what ``insight.npz`` has of a model that reads ``max_len`` items, by kind."""
    arrays = read_arrays(path)
    found: dict[str, Pairs] = {}
    for name, after in arrays.items():
        where, _, when = name.rpartition("/")
        kind, _, part = where.partition("/")
        if when != "after" or kind not in _NAMES:
            continue
        before = arrays.get(f"{where}/before", np.array(None))
        if not (
            re.fullmatch(_NAMES[kind], part)
            and before.shape == after.shape
            and _can_be_drawn(kind, before, max_len)
            and _can_be_drawn(kind, after, max_len)
        ):
            raise UserError(
                f"{path}: {where} is not what an analysis of this run holds; delete the file to do "
                "without"
            )
        found.setdefault(kind, {})[part] = before, after
    return found


def _can_be_drawn(kind: str, array: np.ndarray, max_len: object) -> bool:
    """Return whether an array has a type and shape from which its figure can be drawn."""
    if array.dtype.kind not in ("fc" if kind == "filter" else "f") or not isinstance(max_len, int):
        return False
    if kind == "influence":
        return array.shape == (max_len + 2,)
    if array.ndim != 2 or not array.size:
        return False
    if kind == "time_steps":
        return array.shape[1] == 2 and bool((array[:, 0] > 0).all() and array[:, 1].max() > 0)
    return kind == "memory" or array.shape[0] == max_len // 2 + 1
