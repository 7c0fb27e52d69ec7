"""Safetensors files: arrays by name; nothing in them is executed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import save

from echojax.errors import UserError
from echojax.files import write_atomically
from echojax.given import given_path

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,  # safetensors.numpy writes it and does not read it
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_KNOWN = [np.dtype(dtype) for dtype in _DTYPES.values()]


def write_safetensors(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays so that ``path`` holds them whole or is as it was before.

    Args:
        path: the file; its folder must exist.
        arrays: by name. NumPy's or JAX's, of float64, 32, 16, bfloat16, int64 to int8, uint8, bool.
        metadata: text by name, kept in the file's header.

    Raises:
        UserError: a name, a dtype or the metadata cannot be written, or the folder is missing.
    """
    path = given_path("the file", path)
    if not isinstance(arrays, Mapping):
        raise UserError(f"{path}: arrays are wanted by name, not {arrays!r:.80}")
    if odd := [name for name in arrays if not isinstance(name, str)]:
        raise UserError(f"{path}: an array's name is text, not {odd[0]!r:.80}")
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, Mapping) or not all(
        isinstance(text, str) for item in metadata.items() for text in item
    ):
        raise UserError(f"{path}: metadata must be text by name; write it as str")
    if "__metadata__" in arrays:
        raise UserError(f"{path}: an array cannot be named '__metadata__'; rename it")
    found = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in found.items():
        if array.dtype.newbyteorder("=") not in _KNOWN:
            raise UserError(f"{path}: {name!r} is {array.dtype}; known: {', '.join(_DTYPES)}")
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: its folder is missing; make it first")
    write_atomically(path, save(found, dict(metadata) if metadata else None))


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Return a file's arrays by name, read-only.

    Raises:
        UserError: the file is missing or damaged, or holds arrays of a dtype that NumPy lacks.
    """
    path = given_path("the file", path)
    try:
        views = safetensors.deserialize(path.read_bytes())
        unknown = {view["dtype"] for _, view in views} - _DTYPES.keys()
        if unknown:
            raise ValueError(f"arrays of {', '.join(sorted(unknown))}; known: {', '.join(_DTYPES)}")
        return {
            name: np.frombuffer(bytes(view["data"]), _DTYPES[view["dtype"]]).reshape(view["shape"])
            for name, view in views
        }
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from a copy") from None
