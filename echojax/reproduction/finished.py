"""Finished runs read back: results, and each test target's rank where the run has kept them."""

import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from echojax.errors import UserError
from echojax.evaluation.metrics import metric_names, metrics_of
from echojax.files import read_json

METRICS = ("hr@10", "ndcg@10")
COLUMNS = [metric_names().index(name) for name in METRICS]
PRIMARY = metric_names().index("ndcg@10")  # what is tested


@dataclass(frozen=True, eq=False)
class Ranks:
    """The test targets of a run.

    Attributes:
        values_MxF: each target's metrics in the order of ``metric_names``, float64.
        user_M: its user.
        length_M: items in its history.
    """

    values_MxF: np.ndarray
    user_M: np.ndarray
    length_M: np.ndarray

    def same_targets(self, other: "Ranks") -> bool:
        """Return whether both are about the same users and histories."""
        return np.array_equal(self.user_M, other.user_M) and np.array_equal(
            self.length_M, other.length_M
        )


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished run: ``results.json``, and ``ranks`` where it has ``ranks.npz``."""

    results: dict[str, Any]
    ranks: Ranks | None


def read_finished(folder: Path) -> Finished:
    """Read a finished run; one that has not changed is the same object as last time."""
    stamps = tuple(
        path.stat().st_mtime_ns if path.exists() else 0
        for path in (folder / "results.json", folder / "ranks.npz")
    )
    return _read(folder, stamps)


@cache
def _read(folder: Path, stamps: tuple[int, ...]) -> Finished:
    results = read_json(folder / "results.json")
    path = folder / "ranks.npz"
    if not path.exists():
        return Finished(results, None)
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            rank_M, user_M, length_M = (
                arrays[f"test_{name}_M"] for name in ("rank", "user", "length")
            )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it to do without") from None
    return Finished(results, Ranks(metrics_of(rank_M), user_M, length_M))
