"""A reader under test."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echojax.fuzzing.mutations import Mutation


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        file: name of the file in the folder that ``read`` is given.
        valid: contents that inputs are made from.
        mutate: changes one of them.
        read: reads the file in the folder; raises ``AssertionError`` where the parse is wrong.
        share: of all inputs, relative to the others.
        others: files that stand beside it.
    """

    file: str
    valid: list[bytes]
    mutate: Mutation
    read: Callable[[Path], Any]
    share: float = 1.0
    others: tuple[tuple[str, bytes], ...] = ()
