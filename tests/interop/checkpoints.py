"""Checkpoints as torch.save writes them, made without torch."""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from types import FunctionType, ModuleType
from unittest.mock import patch

import numpy as np

KINDS = {
    "float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16",
    "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte",
    "bool": "Bool",
}  # fmt: skip


def _stand_ins():
    """Return modules that have torch's names; the pickler writes only the names."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    for kind in (*KINDS.values(), "QInt8"):
        name = f"{kind}Storage"
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"):
        function = FunctionType((lambda *values: None).__code__, {})
        function.__module__, function.__name__, function.__qualname__ = utils.__name__, name, name
        setattr(utils, name, function)
    return {"torch": torch, "torch._utils": utils}


MODULES = _stand_ins()


class Storage:
    """Numbers that tensors are views of."""

    def __init__(self, numbers, kind=None):
        self.numbers = np.ascontiguousarray(numbers).reshape(-1)
        self.kind = kind or KINDS[self.numbers.dtype.name]


class Tensor:
    """What torch would pickle as a tensor; whole storages in C order unless told."""

    def __init__(self, storage, shape=None, strides=None, offset=0, extra=()):
        numbers = storage
        self.storage = storage if isinstance(storage, Storage) else Storage(storage)
        shape = np.shape(numbers) if shape is None else shape
        steps = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
        self.values = offset, tuple(shape), tuple(steps if strides is None else strides)
        self.extra = extra

    def __reduce__(self):
        rebuild = MODULES["torch._utils"]._rebuild_tensor_v2
        return rebuild, (self.storage, *self.values, False, OrderedDict(), *self.extra)


class Parameter:
    def __init__(self, tensor, *state):
        self.tensor, self.state = tensor, state

    def __reduce__(self):
        name = "_rebuild_parameter_with_state" if self.state else "_rebuild_parameter"
        return getattr(MODULES["torch._utils"], name), (
            self.tensor,
            True,
            OrderedDict(),
            *self.state,
        )


def save(path, value, protocol=2, **members):
    """Write ``value`` as ``torch.save`` does; ``members`` replace or add parts of the archive."""
    storages, program = [], io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if not isinstance(thing, Storage):
                return None
            if thing not in storages:
                storages.append(thing)
            kind = getattr(MODULES["torch"], f"{thing.kind}Storage")
            return "storage", kind, str(storages.index(thing)), "cpu", len(thing.numbers)

    with patch.dict(sys.modules, MODULES):
        Pickler(program, protocol).dump(value)
    parts = {"data.pkl": program.getvalue(), "byteorder": b"little", "version": b"3\n"}
    parts |= {f"data/{i}": storage.numbers.tobytes() for i, storage in enumerate(storages)}
    return archive(path, parts | members)


def archive(path, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in parts.items():
            file.writestr(f"archive/{name}", data)
    return path
