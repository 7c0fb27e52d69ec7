"""Prepared data sets on disk, so that a second run reads no text."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from echojax.arrays import load_arrays, write_arrays
from echojax.data.dataset import Dataset, arrays_sha256
from echojax.files import cache_dir, is_special

_ARRAYS = ("items_T", "times_T", "offsets", "user_ids", "item_ids")


def cache_path(name: str, **identity: Any) -> Path:
    """Return the path of the data set that is identified by ``identity``, which is JSON-able."""
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "prepared" / f"{name[:50]}-{key[:16]}.npz"


def save(dataset: Dataset, path: Path) -> None:
    """Write a data set, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_special(path):  # it would be written to, and a pipe that nobody reads waits forever
        path.unlink()
    arrays = {name: getattr(dataset, name) for name in _ARRAYS}
    write_arrays(path, arrays | {"fingerprint": np.array(json.dumps(dataset.fingerprint))})


def load(name: str, path: Path) -> Dataset:
    """Read a data set; raise ``ValueError`` if ``save`` did not write this file."""
    archive = load_arrays(path)
    if not archive.keys() >= {*_ARRAYS, "fingerprint"}:
        raise ValueError("an array is missing")
    arrays: dict[str, Any] = {name: archive[name] for name in _ARRAYS}
    fingerprint = json.loads(str(archive["fingerprint"]))
    if arrays_sha256(*arrays.values()) != fingerprint["sha256"]:
        raise ValueError("wrong checksum")
    return Dataset(name=name, **arrays, fingerprint=fingerprint)
