"""The user's mistakes: one line on standard error and exit code 2, never a traceback."""

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from echojax.signals import Interrupted

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_MANY = 50  # from so many names on, an error lists only the nearest


class UserError(Exception):
    """A mistake that the user can fix.

    The message is one line that names the file, line, flag or value, and says what to do.
    """


def unknown_name(kind: str, name: str, known: list[str]) -> UserError:
    """Return the error for a ``name`` that is not among ``known``, with the nearest match."""
    alike = {one.lower(): one for one in known}
    near = get_close_matches(str(name).lower(), alike, n=1)  # from Python it may be anything
    hints = [f"did you mean {alike[near[0]]!r}?"] if near else []
    if not near or len(known) < _MANY:
        hints.append(f"known: {', '.join(known)}")
    return UserError(f"unknown {kind} {name!r}; {' '.join(hints)}")


def one_line(error: BaseException) -> str:
    """Return its message as one line, with control characters, such as of colours, escaped."""
    return escaped(" ".join(str(error).split()))


def escaped(text: str) -> str:
    """Return text with its unprintable characters, line feeds too, written as escapes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class OutOfMemoryError(UserError):
    """The memory of the machine or of a device did not suffice."""


@contextmanager
def memory_failure_is_user_error() -> Iterator[None]:
    """Turn a failed allocation, on the machine or on a device, into an ``OutOfMemoryError``."""
    try:
        yield
    except MemoryError as error:
        words = one_line(error)[:200]
        reason = f" ({words})" if words else ""
        raise OutOfMemoryError(
            f"out of memory{reason}; free some, or ask for less at once"
        ) from None
    except RuntimeError as error:
        words = one_line(error)[:200]
        # Known by its name, as this module does not import JAX, which takes seconds.
        # JAX calls it INTERNAL if it computes with an array whose own computation had no memory.
        no_memory = "RESOURCE_EXHAUSTED" in words or "Out of memory" in words
        if type(error).__name__ != "JaxRuntimeError" or not no_memory:
            raise
        raise OutOfMemoryError(
            f"out of memory on a device ({words}); ask for less at once, as with a smaller "
            "batch (in training: --microbatch or --batch-size)"
        ) from None


@contextmanager
def os_failure_is_user_error() -> Iterator[None]:
    """Turn failures of files, disks and memory, also of a device, into a ``UserError``."""
    try:
        with memory_failure_is_user_error():
            yield
    except ConnectionError:  # another process, not a file
        raise
    except OSError as error:
        what, why = error.filename or "a file", error.strerror or one_line(error)
        if error.errno in _DISK_IS_FULL:
            raise UserError(f"cannot write {what}: {why}; free space, then retry") from None
        raise UserError(f"cannot use {what}: {why}; fix that, or name another place") from None


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a ``UserError``, or a failure of the system, inside into ``error: ...`` and exit code 2.

    A signal to stop ends in one line too. If the reader of the output has closed it, as ``head``
    does, the command ends without a message.
    """
    _print_anything()
    try:
        with os_failure_is_user_error():
            yield
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except Interrupted as stop:
        print(escaped(str(stop)))
        raise SystemExit(stop.code) from None
    except KeyboardInterrupt as stop:
        print("stopped", file=sys.stderr)
        raise SystemExit(128 + getattr(stop, "signum", signal.SIGINT)) from None
    except BrokenPipeError:
        if not _reader_left():
            raise
        raise SystemExit(1) from None
    finally:
        if _reader_left():  # Python flushes at its end, and would print an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _print_anything() -> None:
    """Escape characters that a terminal cannot show, instead of ending the command with an error.

    If a stream is closed, as by ``>&-``, what is written to it is dropped.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _reader_left() -> bool:
    """Return whether standard output is a pipe whose reader has closed it."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
