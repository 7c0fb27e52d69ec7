"""What a pickle of torch.save can make here: descriptions of tensors, and what stays closed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Opaque:
    """Something that is carried and never looked into: what has the name, or was made of it."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers that lie outside of the pickle: ``numel`` of them, under ``key``."""

    kind: str  # such as "torch.FloatStorage"
    key: str
    numel: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(values: tuple[Any, ...]) -> Tensor | Opaque:
    # storage, offset, shape, strides, requires_grad, backward_hooks and, rarely, how to read it:
    # conjugated or negated, which no weights are.
    if len(values) not in (6, 7):
        raise ValueError("a tensor of unknown kind")
    storage, offset, shape, strides = values[:4]
    if not isinstance(storage, Storage) or any(values[6:]):
        return Opaque("tensor")
    if not (isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise ValueError("a tensor without shape or strides")
    if len(shape) != len(strides) or len(shape) > 32:
        raise ValueError("a tensor of impossible rank")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor of impossible shape or strides")
    return Tensor(storage, offset, shape, strides)


def storage(identity: Any) -> Storage | Opaque:
    """Return what a persistent id stands for."""
    match identity:
        case ("storage", Opaque(kind), str(key), _, int(numel)):
            return Storage(kind, key, numel)
    return Opaque("persistent id")


# All that a pickle can have made, by name; the functions are ours and only describe.
FUNCTIONS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": lambda values: Opaque("OrderedDict of items") if values else {},
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda values: values[0],
    "torch._utils._rebuild_parameter_with_state": lambda values: values[0],
}
