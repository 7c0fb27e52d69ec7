"""Signals that stop a command: at once, or after what is at work has been saved."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# SIGHUP comes where a terminal closes, SIGUSR1 as Slurm's warning (--signal=USR1@60).
_STOP_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
]


class Stopped(KeyboardInterrupt):
    """A signal came while nothing deferred it; all files are whole at any moment."""

    def __init__(self, signum: int):
        super().__init__()
        self.signum = signum


class Interrupted(Exception):  # noqa: N818 (no error)
    """The command was asked to stop and has saved; ``code`` is the exit code a shell expects."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.code = 128 + signum


class Interrupts:
    """Remembers the first signal; a second one of its kind acts at once, as without us."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        signal.signal(signum, signal.SIG_DFL)


@contextmanager
def deferred_interrupts() -> Iterator[Interrupts]:
    """Defer signals that stop a command inside the block."""
    interrupts = Interrupts()
    with _handled_by(interrupts._remember):
        yield interrupts


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Raise ``Stopped`` where a signal comes; ``deferred_interrupts`` inside goes before it."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {kind: signal.getsignal(kind) for kind in _STOP_SIGNALS}
    # What nohup has set to be ignored stays so.
    handled = [kind for kind in before if before[kind] != signal.SIG_IGN or kind == signal.SIGINT]
    for kind in handled:
        signal.signal(kind, handler)
    try:
        yield
    finally:
        for kind in handled:
            signal.signal(kind, before[kind])
