"""Pickles that torch.save writes, read as data: nothing they name is imported or called.

A pickle is a program for a stack machine. Here it can make texts, numbers, tuples, dictionaries
and descriptions of tensors; whatever else it asks for, by any name, becomes an ``Opaque``.
"""

import pickletools
import warnings
from collections.abc import Callable
from typing import Any

from echojax.interop.pickle_values import FUNCTIONS, Opaque, storage

_BYTES = 16 * 2**20  # the numbers are not in the pickle; 1,000 tensors take 0.1 MiB
_OPERATIONS = 1_000_000


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []  # how high the stack was
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def take(self, count: int) -> tuple[Any, ...]:
        return self._cut(len(self.stack) - count)

    def take_to_mark(self) -> tuple[Any, ...]:
        return self._cut(self.marks.pop())

    def _cut(self, start: int) -> tuple[Any, ...]:
        if not 0 <= start <= len(self.stack):
            raise ValueError("it takes more than there is")
        values = tuple(self.stack[start:])
        del self.stack[start:]
        return values

    def pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.take(1)

    def remember(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def set_items(self, items: tuple[Any, ...]) -> None:
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys name no tensor, and to hash a deep tuple could exhaust the C stack.
            if isinstance(target, dict) and isinstance(key, str):
                target[key] = value

    def reduce(self, arguments: int) -> None:
        function, values, *_ = self.take(1 + arguments)
        if not (isinstance(function, Opaque) and isinstance(values, tuple)):
            raise ValueError("it calls what cannot be called")
        make = FUNCTIONS.get(function.name)
        self.push(make(values) if make else Opaque(function.name))


def _stack_global(machine: _Machine) -> Opaque:
    module, name = machine.take(2)
    if not (isinstance(module, str) and isinstance(name, str)):
        raise ValueError("a name that is no text")
    return Opaque(f"{module}.{name}")


_CONSTANTS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8", "STRING", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(_CONSTANTS, _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_DICT": lambda m, _: m.push({}),
    # Lists and sets hold nothing of use: their items are dropped.
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda m, _: m.push(Opaque("list"))),
    **dict.fromkeys(
        ("LIST", "FROZENSET"), lambda m, _: m.push((m.take_to_mark(), Opaque("list"))[1])
    ),
    **dict.fromkeys(("APPENDS", "ADDITEMS", "POP_MARK"), lambda m, _: m.take_to_mark()),
    **dict.fromkeys(("APPEND", "BUILD"), lambda m, _: m.take(1)),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.pop(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(m.take(1)),
    "TUPLE2": lambda m, _: m.push(m.take(2)),
    "TUPLE3": lambda m, _: m.push(m.take(3)),
    "TUPLE": lambda m, _: m.push(m.take_to_mark()),
    "SETITEM": lambda m, _: m.set_items(m.take(2)),
    "SETITEMS": lambda m, _: m.set_items(m.take_to_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, place: m.push(m.memo[place])),
    "GLOBAL": lambda m, name: m.push(Opaque(name.replace(" ", "."))),
    "STACK_GLOBAL": lambda m, _: m.push(_stack_global(m)),
    "BINPERSID": lambda m, _: m.push(storage(m.take(1)[0])),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda m, _: m.reduce(1)),
    "NEWOBJ_EX": lambda m, _: m.reduce(2),
}


def read_pickle(program: bytes) -> Any:
    """Return what a pickle describes: dictionaries keep what has a name, the rest is ``Opaque``.

    Raises:
        ValueError: it is no whole pickle, too large, or asks for what torch never writes.
    """
    if len(program) > _BYTES:
        raise ValueError(f"a pickle of {len(program)} bytes")
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of escapes that no pickle has
            for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
                if count == _OPERATIONS:
                    raise ValueError(f"more than {count} operations")
                if opcode.name not in _STEPS:
                    raise ValueError(f"operation {opcode.name}, which torch does not write")
                _STEPS[opcode.name](machine, argument)
        return machine.take(1)[0]
    except (ValueError, LookupError, OverflowError, Warning) as error:
        raise ValueError(f"broken pickle: {error}") from None
