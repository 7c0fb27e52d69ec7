"""Finished runs read back: results, and each test target's rank where the run has kept them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from echojax.arrays import read_arrays
from echojax.errors import UserError
from echojax.evaluation.metrics import metric_names, metrics_of
from echojax.run_files import read_results

RANKS = "ranks.npz"
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
    """A finished run: ``results.json``, and ``ranks`` where it has ``ranks.npz``.

    Judged in another way its results are those of the test part alone.
    """

    results: dict[str, Any]
    ranks: Ranks | None


def read_finished(folder: Path) -> Finished:
    """Read a finished run; one that has not changed is the same object as last time."""
    return _read(folder, stamps(folder / "results.json", folder / RANKS))


def stamps(*paths: Path) -> tuple[int, ...]:
    """Return when files were last written, 0 for those that are not there."""
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)


@cache
def _read(folder: Path, written: tuple[int, ...]) -> Finished:
    return Finished(read_results(folder / "results.json"), read_ranks(folder / RANKS))


def read_ranks(path: Path) -> Ranks | None:
    """Return what a file of the test targets' ranks says; ``None`` where there is none.

    Raises:
        UserError: it is damaged.
    """
    if not path.exists():
        return None
    names = ("test_rank_M", "test_user_M", "test_length_M")
    arrays = read_arrays(path, names)
    rank_M, user_M, length_M = (arrays[name] for name in names)
    if not rank_M.size == user_M.size == length_M.size or rank_M.min(initial=1) < 1:
        raise UserError(f"{path} does not hold ranks of one length; delete it to do without")
    return Ranks(metrics_of(rank_M), user_M, length_M)
