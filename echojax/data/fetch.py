"""Bring a file into a data folder: by download or by pip, verified, one process at a time."""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from echojax.data.download import MAX_BYTES, download
from echojax.data.sources import Origin
from echojax.errors import UserError


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
