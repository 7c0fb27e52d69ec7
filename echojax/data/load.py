"""One call from a name or a file to a prepared data set."""

import os
from dataclasses import replace
from pathlib import Path

from echojax.data.dataset import Dataset
from echojax.data.prepare import prepare
from echojax.data.readers import Columns, read_interactions
from echojax.data.sources import DATASETS
from echojax.data.synthetic import Synthetic
from echojax.errors import UserError, unknown_name


def load_dataset(
    name: str = "synthetic",
    *,
    data_path: Path | str | None = None,
    data_dir: Path | str | None = None,
    data_format: str | None = None,
    columns: Columns = Columns(),  # noqa: B008 (frozen)
    k_core: int = 5,
    duplicates: str = "keep",
    seed: int = 0,
) -> Dataset:
    """Find, read and prepare a data set.

    Args:
        name: A name in ``DATASETS``; ignored when ``data_path`` is given.
        data_path: A file of the user's own.
        data_dir: Where named data sets are looked for first.
        data_format: Format of ``data_path``; None recognises it.
        columns: Column names, for formats with a header.
        k_core: Keep users and items with at least this many interactions each (iterated).
        duplicates: ``keep``, ``first`` or ``last``: what to do with repeated items of a user.
        seed: Determines the generated data set.

    Raises:
        UserError: Anything wrong with names, files or what is in them.
    """
    if data_path is not None:
        path, name = Path(data_path), Path(data_path).name.split(".")[0]
    elif name == "synthetic":
        return _synthetic(seed, k_core, duplicates)
    elif name in DATASETS:
        path = _find(name, data_dir)
    else:
        raise unknown_name("--dataset", name, list(DATASETS))
    source = read_interactions(path, data_format or "inter", columns)
    return prepare(name, source, k_core=k_core, duplicates=duplicates)


def _synthetic(seed: int, k_core: int, duplicates: str) -> Dataset:
    generator = Synthetic(seed)
    source = generator.generate()
    dataset = prepare("synthetic", source, k_core=k_core, duplicates=duplicates)
    if dataset.items_T.size < source.items_T.size or dataset.num_items <= generator.catalogue:
        raise UserError(
            f"--dataset synthetic: --k-core {k_core} and --duplicates {duplicates} drop events, "
            "but its optimum is known for whole histories only; use the defaults"
        )
    return replace(dataset, optimum=generator.optimum)


def cache_dir() -> Path:
    """Return the user's cache folder of echojax."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "echojax"


def _find(name: str, data_dir: Path | str | None) -> Path:
    folders = [data_dir, os.environ.get("ECHOJAX_DATA"), cache_dir() / "data"]
    for folder in folders:
        for file in DATASETS[name].files:
            if folder and (Path(folder) / file).is_file():
                return Path(folder) / file
    raise UserError(f"{name}: no file found; put {DATASETS[name].files[0]} into --data-dir")
