"""PyTorch checkpoints (.pt, .pth): the tensors of a state_dict, without PyTorch or its pickles."""

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from echojax.errors import UserError
from echojax.interop.pickle_program import read_pickle
from echojax.interop.pickle_values import Opaque, Storage, Tensor

_DTYPES = {
    "torch.DoubleStorage": np.dtype("<f8"), "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"), "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch.LongStorage": np.dtype("<i8"), "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"), "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"), "torch.BoolStorage": np.dtype("?"),
}  # fmt: skip
# What zipfile raises, besides OSError and ValueError, when bytes of an archive are wrong.
_BROKEN = (
    zipfile.BadZipFile, zlib.error, struct.error, KeyError, EOFError, RuntimeError, OverflowError,
    AttributeError,
)  # fmt: skip


def read_pytorch(path: str | Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file that ``torch.save`` (1.6 or newer) wrote; nothing is executed.

    Args:
        path: a ``state_dict``, or a dictionary that holds one as ``"state_dict"`` beside anything
            else (RecBole's checkpoints), which is ignored.

    Returns:
        Read-only arrays by the names of the ``state_dict``, as ``from_pytorch`` takes them. Tensors
        that share memory share it here; dtypes are kept (bfloat16 too).

    Raises:
        UserError: the file is missing or damaged, or holds no ``state_dict``.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if file.read(1) == b"\x80":  # a bare pickle
                raise ValueError("the format of PyTorch before 1.6")
            with zipfile.ZipFile(file) as archive:
                return _tensors(_Archive(archive, path.stat().st_size))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except (OSError, ValueError, *_BROKEN) as error:
        raise UserError(
            f"{path} cannot be read ({error}); "
            "save it again with a current torch: torch.save(model.state_dict(), path)"
        ) from None


class _Archive:
    """The members of a checkpoint that are looked at: data.pkl, byteorder and data/KEY."""

    def __init__(self, archive: zipfile.ZipFile, size: int):
        infos = archive.infolist()
        # Torch does not compress: whatever claims to be larger than the file lies.
        if sum(info.file_size for info in infos) > size:
            raise ValueError("its parts claim to be larger than the file")
        if len({info.filename for info in infos}) != len(infos):
            raise ValueError("it has two parts of one name")
        folders = [i.filename[:-9] for i in infos if i.filename.endswith("/data.pkl")]
        if len(folders) != 1 or "/" in folders[0]:
            raise ValueError("no archive of torch.save")
        self._archive, self._folder = archive, folders[0]
        self._storages: dict[Storage, bytes] = {}
        if (
            f"{self._folder}/byteorder" in archive.namelist()
            and self.read("byteorder") != b"little"
        ):
            raise ValueError("written by a big-endian machine")

    def read(self, name: str) -> bytes:
        info = self._archive.getinfo(f"{self._folder}/{name}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, which torch does not do")
        return self._archive.read(info)

    def storage(self, storage: Storage, dtype: np.dtype) -> bytes:
        """Return the bytes of a storage's numbers; each is read once."""
        if storage not in self._storages:
            data = self.read(f"data/{storage.key}")
            if len(data) != storage.numel * dtype.itemsize:
                raise ValueError(f"data/{storage.key[:80]} has {len(data)} bytes, not its numbers'")
            if dtype == np.bool_ and data.strip(b"\0\1"):
                raise ValueError("truth values that are neither 0 nor 1")
            self._storages[storage] = data
        return self._storages[storage]


def _tensors(archive: _Archive) -> dict[str, np.ndarray]:
    saved: Any = read_pickle(archive.read("data.pkl"))
    if isinstance(saved, dict) and isinstance(saved.get("state_dict"), dict):
        saved = saved["state_dict"]
    if isinstance(saved, Opaque):
        raise ValueError(f"it holds a {saved.name[:80]}, not a state_dict")
    named = saved.items() if isinstance(saved, dict) else ()
    tensors = {name: value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError("it holds no tensors by name")
    return {name: _array(name, value, archive) for name, value in tensors.items()}


def _array(name: str, tensor: Tensor, archive: _Archive) -> np.ndarray:
    dtype = _DTYPES.get(tensor.storage.kind)
    if dtype is None:
        raise ValueError(f"{name[:80]!r} is of unknown kind {tensor.storage.kind[:80]}")
    data = archive.storage(tensor.storage, dtype)
    numel, count = tensor.storage.numel, math.prod(tensor.shape)
    axes = list(zip(tensor.shape, tensor.strides, strict=True))
    # Not more numbers than there are: strides of 0 could claim any size.
    last = tensor.offset + sum((size - 1) * stride for size, stride in axes)
    if count > numel or (count and last >= numel):
        raise ValueError(f"{name[:80]!r} reaches beyond its numbers")
    if not count:
        return np.zeros(tensor.shape, dtype)
    strides = [dtype.itemsize * stride if size > 1 else 0 for size, stride in axes]
    return np.ndarray(tensor.shape, dtype, data, dtype.itemsize * tensor.offset, strides)
