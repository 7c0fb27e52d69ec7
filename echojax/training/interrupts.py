"""SIGINT and SIGTERM as a question that the training loop asks between steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):  # noqa: N818 (no error)
    """The run was asked to stop and has saved; ``code`` is the exit code a shell expects."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.code = 128 + signum


class Interrupts:
    """Remembers the first signal; the second one acts at once, as without us."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        signal.signal(signum, signal.SIG_DFL)


@contextmanager
def deferred_interrupts() -> Iterator[Interrupts]:
    """Defer SIGINT and SIGTERM inside the block."""
    interrupts = Interrupts()
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, interrupts._remember) for kind in kinds]
    try:
        yield interrupts
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
