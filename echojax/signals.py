"""SIGINT and SIGTERM in commands whose files are whole at any moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_KINDS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal came while nothing deferred it; all files are whole at any moment."""

    def __init__(self, signum: int):
        super().__init__()
        self.signum = signum


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Raise ``Stopped`` where a signal comes; training inside defers it to the end of a step."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    before = [signal.signal(kind, stop) for kind in _KINDS]
    try:
        yield
    finally:
        for kind, handler in zip(_KINDS, before, strict=True):
            signal.signal(kind, handler)
