"""Arrays in .npz files that may be damaged: no pickles, no more memory than the file has."""

import io
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from echojax.errors import UserError
from echojax.files import is_special, write_atomically

_MOST_ARRAYS = 1000  # each takes half a millisecond


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file; ``ValueError`` unless ``np.savez`` wrote it."""
    if is_special(path):
        raise ValueError("no regular file")
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
            if len(members) > _MOST_ARRAYS:
                raise ValueError(f"it has {len(members):,} parts, and none of ours so many")
            # np.savez does not compress, so a file whose parts are larger is not from it.
            sizes = sum(info.file_size for info in members)
            if sizes > path.stat().st_size:
                raise ValueError("its parts claim to be larger than the file")
            file.seek(0)
            with warnings.catch_warnings(), np.load(file, allow_pickle=False) as archive:
                warnings.simplefilter("error")  # of headers that savez does not write
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError):
            raise
        except Exception as error:  # of wrong bytes, zipfile and NumPy raise a dozen kinds
            raise ValueError(f"broken archive ({error})") from None
    if not all(map(_sound, arrays.values())):
        raise ValueError("it holds other things than arrays")
    return arrays


def _sound(array: object) -> bool:
    """Return whether it is an array, and all its text, if any, is valid Unicode."""
    if not (isinstance(array, np.ndarray) and array.dtype.isnative):
        return False
    if array.dtype.kind != "U" or not array.nbytes:
        return True
    codes = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
    return int(np.max(codes)) <= sys.maxunicode


def read_arrays(path: Path, names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Return the arrays of a file in a run folder; ``names`` must be among them, of one axis."""
    try:
        arrays = load_arrays(path)
        for name in names:
            if name not in arrays:
                raise ValueError(f"it has no {name}")
            if arrays[name].ndim != 1 or arrays[name].dtype.kind not in "iu":
                raise ValueError(f"{name} is no list of whole numbers")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it, or do without it") from None
    return arrays
