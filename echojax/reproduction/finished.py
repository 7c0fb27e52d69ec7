"""Finished runs read back: results, and each test target's rank where the run has kept them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from echojax.arrays import read_arrays
from echojax.errors import UserError
from echojax.evaluation.metrics import metric_names, metrics_of
from echojax.run_files import read_results

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
    stamps = tuple(
        path.stat().st_mtime_ns if path.exists() else 0
        for path in (folder / "results.json", folder / "ranks.npz")
    )
    return _read(folder, stamps)


@cache
def _read(folder: Path, stamps: tuple[int, ...]) -> Finished:
    results = read_results(folder / "results.json")
    path = folder / "ranks.npz"
    if not path.exists():
        return Finished(results, None)
    return Finished(results, *read_ranks(path, ["test_rank_M"], "test_user_M", "test_length_M"))


def read_ranks(path: Path, ranks: Sequence[str], user: str, length: str) -> list[Ranks]:
    """Return what lists of ranks of the same test targets say, one for each name in ``ranks``.

    Args:
        path: an .npz file.
        ranks: the lists' names in it.
        user: the name of the targets' users.
        length: of their histories' lengths.

    Raises:
        UserError: they are not there, or damaged.
    """
    arrays = read_arrays(path, (*ranks, user, length))
    lists = [arrays[name] for name in (*ranks, user, length)]
    smallest = min((arrays[name].min(initial=1) for name in ranks), default=1)
    if len({one.size for one in lists}) > 1 or smallest < 1:
        raise UserError(f"{path} does not hold ranks of one length; delete it to do without")
    return [Ranks(metrics_of(arrays[name]), arrays[user], arrays[length]) for name in ranks]
