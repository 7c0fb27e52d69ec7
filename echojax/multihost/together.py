"""Hosts that end together: if one of them ends, so do the others, each with one line.

A host that fails tells the others through JAX's coordination service, which a thread of each polls
once a second, whatever the host is doing. A host that is killed cannot: the others notice that a
connection breaks, or that its heartbeat is missing. JAX then raises an error, or aborts the
process, and a handler of that signal prints the line.
"""

import ctypes
import json
import logging
import os
import signal
import threading
import traceback
from contextlib import suppress
from types import TracebackType

from echojax.errors import UserError, one_line, os_failure_is_user_error
from echojax.multihost import store
from echojax.multihost.place import Place, check_port_is_free

log = logging.getLogger(__name__)

# After so long without an answer a host is lost, and the others stop.
HEARTBEAT_SECONDS = 30

# How long a failed host, which may be the one with the service, waits for the others to read why.
_FAREWELL_SECONDS = 5.0

_POLL_SECONDS = 1.0

# How an error of JAX's runtime begins if a connection was lost, which is not a bug.
_LOST = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "DATA_LOSS")

_AGAIN = "start all hosts again with --resume"


class Together:
    """A context in which a failure ends all hosts at once, and success waits for all of them.

    A process that simply ended would first wait for the others, and they for it. The exit code is 2
    if the first failure is a ``UserError``, 130 for Ctrl-C, otherwise 1. Without a place, in the
    only process, nothing is done.
    """

    def __init__(self, place: Place | None):
        self._place = place
        self._ending = threading.Lock()  # held by the thread that ends the process: one line only
        self._finished = threading.Event()
        self._watcher: threading.Thread | None = None
        self._tried_to_join = False
        self._code: int | None = None  # the exit code, once the process is ending
        self._last_words = ("JAX has ended this process", 1)  # line and exit code if JAX aborts

    def __enter__(self) -> "Together":
        """Take over the abort of JAX, before JAX is imported."""
        if self._place is not None:
            # Before it aborts, JAX would print a C++ stack. It sets 1 by itself, perhaps in a
            # program that has started this one; the user must have set any other level.
            if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
                os.environ["TF_CPP_MIN_LOG_LEVEL"] = "4"
            self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._on_abort)
            # A handler of Python's own would only run after JAX has ended the process.
            ctypes.CDLL(None).signal(int(signal.SIGABRT), self._handler)
        return self

    def join(self) -> None:
        """Connect to the other hosts, before JAX is used for anything else.

        If they do not come in time, this process ends with one line and exit code 2.
        """
        place = self._place
        if place is None:
            return
        self._tried_to_join = True
        if place.coordinator is not None and place.host == 0:
            check_port_is_free(place.coordinator)
        at = f" at {place.coordinator}" if place.coordinator else ""
        here = "a host" if place.host is None else f"host {place.host}"
        self._last_words = (
            f"the hosts did not all meet{at} within {place.seconds} s, or one came twice; start "
            "each once, all at the same time, where they can reach host 0 (without a proxy)",
            2,
        )
        log.info(
            f"{here} has come; waiting up to {place.seconds} s for all {place.hosts or 'others'}"
        )
        import jax

        # JAX's warning about proxies matters only if the hosts do not meet; the line above has it.
        jax.config.update("jax_check_proxy_envs", False)
        try:
            jax.distributed.initialize(
                place.coordinator,
                place.hosts,
                place.host,
                initialization_timeout=place.seconds,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(f"cannot join the other hosts: {one_line(error)}") from None
        self._last_words = (
            f"host {store.place()[0]} lost touch with another, killed or cut off",
            1,
        )
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End with the others: at once after an error, otherwise when all are done."""
        if self._place is None or (isinstance(error, SystemExit) and not error.code):  # --help
            return
        try:
            with os_failure_is_user_error():
                if error is not None:
                    raise error
                store.gather("finished", "")
        except BaseException as error:
            self._fail(error)
        self._finished.set()
        if self._watcher is not None:  # a thread inside JAX must not meet the end of Python
            self._watcher.join()

    def _fail(self, error: BaseException) -> None:
        """Print an error, send it to the others, and end."""
        line, code = _described(error)
        text = _sentence(line, code)
        if isinstance(error, BrokenPipeError):  # the reader of the output has closed it
            text = ""
        elif code == 1 and not _is_lost(error):
            text = "".join(traceback.format_exception(error))
        self._say_last(text, code)
        with suppress(BaseException):  # Ctrl-C too: this process is ending
            if not self._tried_to_join and isinstance(error, Exception):
                self.join()
            store.put("failed", json.dumps([line, code]))
        self._leave(code)

    def _watch(self) -> None:
        """End this process when another one has reported that it failed."""
        while not self._finished.is_set():
            failed = {}
            with suppress(Exception):  # if the service is gone, JAX aborts
                failed = store.texts("failed")
            for host, text in failed.items():
                line, code = json.loads(text)
                self._say_last(_sentence(f"host {host} has ended: {line}", code), code)
                self._leave(code)
            self._finished.wait(_POLL_SECONDS)

    def _on_abort(self, signum: int) -> None:
        """End, in the thread that JAX aborts, before the signal does."""
        line, code = self._last_words
        if self._ending.acquire(blocking=False):
            os.write(2, _sentence(line, code).encode())
        os._exit(code if self._code is None else self._code)

    def _say_last(self, text: str, code: int) -> None:
        """Print the only line of this process; a second thread waits here for its end."""
        self._ending.acquire()
        self._code = code
        with suppress(OSError):  # the reader may have closed it
            os.write(2, text.encode())

    def _leave(self, code: int) -> None:
        """End when the others have read why, without waiting for anything else."""
        with suppress(Exception):
            store.gather("left", "", seconds=_FAREWELL_SECONDS)
        os._exit(code)


def _sentence(line: str, code: int) -> str:
    """Return a line for the user, with the advice to start again unless it was their mistake."""
    return f"error: {line}{'' if code == 2 else f'; {_AGAIN}'}\n"


def _described(error: BaseException) -> tuple[str, int]:
    """Return a line about an error, and its exit code."""
    if isinstance(error, UserError):
        return one_line(error), 2
    if isinstance(error, KeyboardInterrupt):
        signum = getattr(error, "signum", signal.SIGINT)
        how = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        return f"stopped by {how}", 128 + signum
    words = one_line(error)[:200]
    if _is_lost(error):
        return f"a host lost touch with another ({words})", 1
    return f"{type(error).__name__}: {words}", 1


def _is_lost(error: BaseException) -> bool:
    """Return whether JAX's runtime has lost a connection, without importing JAX.

    The error is then a ``JaxRuntimeError`` or a ``ValueError``.
    """
    text = str(error)
    of_runtime = type(error).__name__ == "JaxRuntimeError" and text.startswith(_LOST)
    return of_runtime or "Gloo" in text or "onnection" in text
