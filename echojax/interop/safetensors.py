"""Safetensors files: a length, a JSON header, the arrays' bytes; nothing else, nothing executed."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from echojax.errors import UserError
from echojax.files import write_atomically

_DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16), "I64": np.dtype("<i8"), "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"), "I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
_HEADER_BYTES = 16 * 2**20  # of some hundred thousand arrays
_METADATA = "__metadata__"


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
    path = Path(path)
    codes = {dtype: code for code, dtype in _DTYPES.items()}
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    if not all(isinstance(text, str) for item in (metadata or {}).items() for text in item):
        raise UserError(f"{path}: metadata must be text by name; write it as str")
    parts, end = [], 0
    # The widest first: every array begins at a multiple of its numbers' size.
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        array = np.asarray(arrays[name])
        code = codes.get(array.dtype.newbyteorder("<"))
        if code is None:
            raise UserError(f"{path}: {name!r} is {array.dtype}; known: {', '.join(_DTYPES)}")
        if name == _METADATA:
            raise UserError(f"{path}: an array cannot be named {name!r}; rename it")
        parts.append(array.astype(_DTYPES[code], copy=False).tobytes())
        offsets = [end, end := end + array.nbytes]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: its folder is missing; make it first")
    write_atomically(path, b"".join([struct.pack("<Q", len(text)), text, *parts]))


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Return a file's arrays by name, read-only.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from a copy") from None


def _read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    if size < 8:
        raise ValueError("too short for a safetensors file")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, _HEADER_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    header = json.loads(file.read(length).decode(), object_pairs_hook=_without_twins)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop(_METADATA, {})
    if not (isinstance(metadata, dict) and all(isinstance(x, str) for x in metadata.values())):
        raise ValueError("its metadata is not text by name")
    entries = sorted((_entry(name, value) for name, value in header.items()), key=lambda e: e[3:])
    data, end = file.read(size - 8 - length), 0
    for name, _, _, begins, ends in entries:
        if begins != end:
            raise ValueError(f"{name!r} begins at byte {begins}, the one before it ends at {end}")
        end = ends
    if end != len(data):
        raise ValueError(f"{len(data)} bytes of arrays, but its header says {end}")
    return {
        name: _array(name, data[begins:ends], code, shape)
        for name, code, shape, begins, ends in entries
    }


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("its header has a name twice")
    return found


def _entry(name: str, value: Any) -> tuple[str, str, list[int], int, int]:
    try:
        code, shape, (begins, ends) = (value[k] for k in ("dtype", "shape", "data_offsets"))
        numbers = [*shape, begins, ends]
        itemsize = _DTYPES[code].itemsize
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"its header says nothing sound of {name!r}") from None
    if len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise ValueError(f"{name!r} has an impossible shape or place")
    if ends - begins != math.prod(shape) * itemsize:
        raise ValueError(f"{name!r} has {ends - begins} bytes, not what its shape needs")
    return name, code, shape, begins, ends


def _array(name: str, data: bytes, code: str, shape: list[int]) -> np.ndarray:
    if code == "BOOL" and data.strip(b"\0\1"):
        raise ValueError(f"{name!r} has truth values that are neither 0 nor 1")
    return np.frombuffer(data, _DTYPES[code]).reshape(shape)
