"""Fetch a file once: resumed, retried, verified, and renamed into place only when it is right."""

import contextlib
import hashlib
import http.client
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from echojax.data.sources import Origin
from echojax.errors import UserError

# Files without a known size: far above any of them, far below a full disk.
MAX_BYTES = 1 << 30
_CHUNK = 1 << 18
_WORTH_A_RETRY = (408, 425, 429, 500, 502, 503, 504)


def fetch(origin: Origin, folder: Path, verify: Callable[[Path], None]) -> Path:
    """Fetch ``origin`` into ``folder``.

    Args:
        origin: What to fetch.
        folder: Where to; made where missing.
        verify: Raises ``UserError`` when the content, under a temporary name, is wrong.

    Raises:
        UserError: The file cannot be fetched or is not what it should be; nothing is left but,
            of a broken download, the part to resume from.
    """
    target = folder / origin.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(target):
            if not target.exists():
                if origin.url:
                    download(origin.url, target, verify, max_bytes=origin.size or MAX_BYTES)
                else:
                    _download_by_pip(origin, target, verify)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def check(path: Path, origin: Origin) -> None:
    """Raise ``UserError`` unless the file has the size and checksum known of ``origin``."""
    size = path.stat().st_size
    if origin.size is not None and size != origin.size:
        problem = f"{size} bytes where {origin.size} are expected"
    elif origin.sha256 is not None and sha256_of(path) != origin.sha256:
        problem = f"wrong checksum (SHA-256 is not {origin.sha256})"
    else:
        return
    raise UserError(f"{path}: {problem}; delete it to fetch it again")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(
    url: str,
    target: Path,
    verify: Callable[[Path], None],
    *,
    max_bytes: int = MAX_BYTES,
    attempts: int = 4,
    pause: float = 1.0,
) -> None:
    """Download ``url`` to ``target``, by way of ``target`` + ``.part``.

    Args:
        url: Address; a redirect may not leave TLS.
        target: Where the verified file goes.
        verify: Raises ``UserError`` when the content is wrong.
        max_bytes: Longest content accepted.
        attempts: How often to try before giving up.
        pause: Seconds before the second attempt, doubled each time.

    Raises:
        UserError: No connection, refused, or wrong content.
    """
    part = target.with_name(target.name + ".part")
    resumed = part.exists()
    with _progress_bar() as bar:
        _complete(url, part, bar, max_bytes, attempts, pause)
        try:
            verify(part)
        except UserError:
            part.unlink()
            if not resumed:
                raise
            # The part may have been of another version of the file.
            _complete(url, part, bar, max_bytes, attempts, pause)
            try:
                verify(part)
            except UserError:
                part.unlink()
                raise
    os.replace(part, target)


def _complete(
    url: str, part: Path, bar: Progress, max_bytes: int, attempts: int, pause: float
) -> None:
    """Append to ``part`` until it holds everything."""
    for attempt in range(attempts):
        try:
            return _append(url, part, bar, max_bytes)
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {error.reason}"
            hopeless = error.code not in _WORTH_A_RETRY
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            problem = str(getattr(reason, "strerror", None) or reason)
            hopeless = isinstance(reason, socket.gaierror | ssl.SSLCertVerificationError)
        if hopeless:
            break
        if attempt + 1 < attempts:
            time.sleep(pause * 2**attempt)
    raise UserError(f"cannot download {url} ({problem})")


def _append(url: str, part: Path, bar: Progress, max_bytes: int) -> None:
    """Make one request for what is missing of ``part``."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "echojax"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is missing; verification decides
            error.close()
            return
        raise
    with response:
        if url.startswith("https:") and not response.geturl().startswith("https:"):
            raise UserError(f"{url}: redirects to a server without TLS; not followed")
        resumes = response.status == 206
        if resumes and not (response.headers["Content-Range"] or "").startswith(f"bytes {have}-"):
            raise http.client.HTTPException("the server resumed at another place")
        have = have if resumes else 0
        length = response.headers["Content-Length"]
        total = have + int(length) if length else None
        task = bar.add_task(part.stem, total=total, completed=have)
        with open(part, "ab" if resumes else "wb") as file:
            while chunk := response.read(_CHUNK):
                have += len(chunk)
                if have > max_bytes:
                    raise UserError(f"{url}: longer than the expected {max_bytes} bytes")
                file.write(chunk)
                bar.update(task, completed=have)
        if total is not None and have < total:
            raise http.client.HTTPException("the connection closed early")


def _download_by_pip(origin: Origin, target: Path, verify: Callable[[Path], None]) -> None:
    """Let pip, with whatever mirror it is set up for, download a wheel; nothing is installed."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder]
        assert origin.requirement is not None
        done = subprocess.run([*command, origin.requirement], capture_output=True, text=True)
        wheel = Path(folder) / origin.file
        if done.returncode or not wheel.exists():
            lines = done.stderr.strip().splitlines() or ["no such file"]
            raise UserError(f"pip cannot download {origin.requirement} ({lines[-1]})")
        verify(wheel)
        os.replace(wheel, target)


@contextlib.contextmanager
def _only_one(target: Path) -> Iterator[None]:
    """Let one process at a time fetch ``target``; the others wait and find it there."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes at once would be caught by verification
        yield
        return
    lock = target.with_name(target.name + ".lock")
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
