"""How often each item occurs in a run's training part: the answer to an empty history."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from echojax.config import Config
from echojax.data import Dataset, Split
from echojax.models.heuristic import training_counts
from echojax.training.builders import read_data
from echojax.training.run_folder import check_same_data


def read_run_data(
    folder: Path,
    config: Config,
    *,
    data_dir: str | None = None,
    data_path: str | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Dataset, Split]:
    """Return the data that a run was trained on.

    Args:
        folder: the run folder.
        config: its configuration.
        data_dir: where the data lies now, if not where the run found it.
        data_path: where the run's own file lies now.
        say: prints one line.

    Raises:
        UserError: the data is not there, or not what the run was trained on.
    """
    config = dataclasses.replace(
        config, data_dir=data_dir or config.data_dir, data_path=data_path or config.data_path
    )
    dataset, split = read_data(config)
    check_same_data(folder, dataset)
    return dataset, split


def read_popularity(
    folder: Path,
    config: Config,
    *,
    data_dir: str | None = None,
    data_path: str | None = None,
    say: Callable[[str], None] = print,
) -> np.ndarray:
    """Return the training interactions of each item, int64 (V,); see ``read_run_data``."""
    dataset, split = read_run_data(folder, config, data_dir=data_dir, data_path=data_path, say=say)
    return training_counts(split.train, dataset.num_items)


def most_popular(counts_V: np.ndarray, numbers: np.ndarray, k: int) -> np.ndarray:
    """Return the k of these items with the largest counts, equal ones by number."""
    return numbers[np.argsort(-counts_V[numbers], kind="stable")[:k]]
