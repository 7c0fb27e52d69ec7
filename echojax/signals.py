"""Signals that stop a command: at once, or after the work so far has been saved."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

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
    """A signal came and everything is saved; ``code`` is the exit code that a shell expects."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum, self.code = signum, 128 + signum


@dataclass
class Interrupts:
    """The last signal that came, 0 if none did."""

    message: str  # for the user, once everything is saved
    signum: int = 0

    def stop_for(self, signum: int) -> None:
        """Raise ``Interrupted`` for a signal that this host or another got; nothing for 0."""
        if signum:
            raise Interrupted(self.message, signum)


@contextmanager
def deferred_interrupts(message: str) -> Iterator[Interrupts]:
    """Defer signals that stop a command inside the block; a second of a kind acts as without it."""
    interrupts, before = Interrupts(message), dict[int, Any]()

    def remember(signum: int, frame: FrameType | None) -> None:
        interrupts.signum = signum
        # A second signal ends the command even if no Python code runs any more.
        signal.signal(signum, signal.SIG_DFL if before[signum] is _stop else before[signum])

    with _handled_by(remember, before):
        yield interrupts


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Raise ``Stopped`` when a signal comes, unless ``deferred_interrupts`` inside defers it."""
    with _handled_by(_stop, {}):
        yield


def _stop(signum: int, frame: FrameType | None) -> None:
    if not _is_lost_or_harmful(frame):
        raise Stopped(signum)
    again = threading.Timer(0.05, os.kill, (os.getpid(), signum))
    again.daemon = True
    again.start()


def _is_lost_or_harmful(frame: FrameType | None) -> bool:
    """Return whether an exception raised here would be lost, or do harm.

    It may crash the initialisation of a module written in C; in ``__del__`` it is only printed.
    """
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib") or code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


@contextmanager
def _handled_by(
    handler: Callable[[int, FrameType | None], None], before: dict[int, Any]
) -> Iterator[None]:
    """Handle signals inside, if this is the main thread; fill ``before`` with their handlers."""
    if threading.current_thread() is threading.main_thread():
        for kind in _STOP_SIGNALS:
            known = signal.getsignal(kind)
            # What nohup has set to be ignored stays so; what is not Python's cannot be set again.
            if known is not None and (known != signal.SIG_IGN or kind == signal.SIGINT):
                before[kind] = known
    try:
        for kind in before:  # a signal may come while they are set
            signal.signal(kind, handler)
        yield
    finally:
        for kind, known in before.items():
            signal.signal(kind, known)
