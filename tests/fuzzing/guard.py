"""One input at a time under limits: what came of it, and in how long."""

import contextlib
import faulthandler
import logging
import resource
import signal
import time

from echojax.errors import UserError

INPUT_SECONDS = 5.0
INPUT_BYTES = 2 << 30  # beyond what the process had mapped before


class Hang(BaseException):  # no reader may catch it
    """An input has had its time."""


def attempt(read):
    """Read one input; return "parsed", "refused" (one line) or "failed", seconds, and the error."""
    began, kind, error = time.perf_counter(), "parsed", ""
    signal.setitimer(signal.ITIMER_REAL, INPUT_SECONDS)
    try:
        read()
    except UserError as line:
        kind, error = "refused", str(line)
    except (Exception, Hang) as escaped:
        kind, error = "failed", f"{type(escaped).__name__}: {escaped}"[:300]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return kind, time.perf_counter() - began, error


@contextlib.contextmanager
def limits():
    """Limit the address space, turn the alarm of ``attempt`` into ``Hang``, and log nothing."""

    def hang(signum, frame):
        raise Hang(f"no end in {INPUT_SECONDS:.0f} s")

    logging.disable(logging.CRITICAL)  # the same about damage, a thousand times
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, hang)
    # What never comes back to Python is shown, and ends everything.
    faulthandler.dump_traceback_later(3600, exit=True)
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:  # elsewhere no limit
        mapped = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + INPUT_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, handler)
        logging.disable(logging.NOTSET)
