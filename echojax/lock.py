"""A lock that one process holds, on this machine or on another that shares the folder."""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NotRequired, TypedDict

import msgspec

from echojax.errors import UserError
from echojax.files import is_special

log = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 10.0


class BusyError(UserError):
    """Another process holds the lock."""


class _Owner(TypedDict):
    host: str
    pid: int
    boot: NotRequired[str]
    pids: NotRequired[str]


@contextmanager
def hold(file: Path, handle: int, doing: str) -> Iterator[None]:
    """Hold a lock; ``BusyError`` if another process holds it. ``doing`` is what for, in errors.

    ``handle`` is an open file or folder, which is locked by the operating system: that is enough
    among the processes of one machine. For other machines, and on file systems without such locks,
    there is ``file``, which exists while the lock is held and which its owner touches every few
    seconds.
    """
    boot, pids = _boot_and_process_ids()
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "boot": boot, "pids": pids}
    mine = json.dumps(owner | {"since": time.time_ns()}).encode()
    _make(file, mine, doing, locked=_try_flock(handle, doing))
    released = threading.Event()
    beat = threading.Thread(target=_keep_alive, args=(file, released), daemon=True)
    try:
        beat.start()
        yield
    finally:
        released.set()
        if beat.ident is not None:
            beat.join()
        if _content(file) == mine:
            file.unlink(missing_ok=True)


def _boot_and_process_ids() -> tuple[str, str]:
    """Return identifiers of this boot of the machine, and of this namespace of process numbers.

    Containers may have the same host name, and the same few process numbers.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return socket.gethostname(), ""


def _try_flock(handle: int, doing: str) -> bool:
    """Lock an open file or folder; return whether its file system has locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _busy("another process", doing) from None
    except (ImportError, OSError):  # Windows, or a file system without locks
        return False
    return True


def _busy(who: str, doing: str) -> BusyError:
    return BusyError(f"{who} {doing}; wait for it, or stop it")


def _make(file: Path, mine: bytes, doing: str, *, locked: bool) -> None:
    """Create the lock file atomically; remove an earlier one if its owner is gone."""
    own = file.with_name(f"{file.name}.{socket.gethostname()}.{os.getpid()}")
    busy = _busy("another process", doing)
    if (found := _content(file)) is not None:
        _check_owner_is_gone(file, found, doing, locked=locked)
        with suppress(FileNotFoundError):
            file.rename(own)
            if _content(own) != found:  # another process has just taken it over
                own.rename(file)
                raise busy
    own.unlink(missing_ok=True)
    try:
        _write_new(own, mine)
        os.link(own, file)
    except FileExistsError:
        raise busy from None
    except OSError:
        if not own.exists():
            raise
        try:  # a file system without hard links
            _write_new(file, mine)
        except FileExistsError:
            raise busy from None
    finally:
        own.unlink(missing_ok=True)


def _write_new(file: Path, content: bytes) -> None:
    """Write a file that does not exist, never through a link; leave none if that fails."""
    with file.open("xb") as created:
        try:
            created.write(content)
            created.flush()
        except OSError as error:
            file.unlink()
            error.filename = str(file)
            raise


def _content(file: Path) -> bytes | None:
    """Return the content of a lock file; ``None`` if there is none."""
    if is_special(file):
        raise UserError(f"{file} is no regular file; delete it")
    with suppress(FileNotFoundError):
        return file.read_bytes()
    return None


def _check_owner_is_gone(file: Path, content: bytes, doing: str, *, locked: bool) -> None:
    """Raise ``BusyError`` if a lock file's owner lives; on another machine, after some waiting."""
    try:
        owner = msgspec.json.decode(content, type=_Owner)
    except msgspec.MsgspecError:  # half of one, from a file system without hard links
        owner = _Owner(host="another", pid=0)
    boot, pids = _boot_and_process_ids()
    if locked and (owner.get("boot") == boot or not owner["pid"]):
        return
    alive = False
    if (owner.get("boot"), owner.get("pids")) == (boot, pids):
        alive = owner["pid"] != os.getpid() and _runs(owner["pid"])
    else:
        log.info(f"waiting to see whether {owner['host']} still {doing} ...")
        with suppress(FileNotFoundError):  # it has just ended
            touched, until = file.stat().st_mtime_ns, time.monotonic() + 2.5 * _HEARTBEAT_SECONDS
            while not alive and time.monotonic() < until:
                time.sleep(_HEARTBEAT_SECONDS / 10)
                alive = file.stat().st_mtime_ns != touched
    if alive:
        raise _busy(f"process {owner['pid']} of {owner['host']}", doing)


def _runs(pid: int) -> bool:
    """Return whether this machine has a process with that number, of any user."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # the number comes from a file
        return False
    except PermissionError:  # it is another user's
        pass
    return True


def _keep_alive(file: Path, released: threading.Event) -> None:
    while not released.wait(_HEARTBEAT_SECONDS):
        with suppress(OSError):
            os.utime(file)
