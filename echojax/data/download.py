"""Download a published file to a data folder, by HTTPS or by pip.

pooch writes to a temporary file, verifies it, tries again after failures and renames it; if two
processes download at once, both end with the whole file.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pooch  # type: ignore[import-untyped]
import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from echojax.data.sources import Origin
from echojax.errors import UserError

# The limit for files of unknown size: far above any of them, far below the size of a disk.
MAX_BYTES = 1 << 30
_CHUNK = 1 << 18
_ATTEMPTS = 4
_WORTH_A_RETRY = (408, 425, 429, 500, 502, 503, 504)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, origin: Origin) -> None:
    """Raise ``UserError`` unless the file has the size and checksum of ``origin``, if known."""
    size = path.stat().st_size
    if origin.size is not None and size != origin.size:
        problem = f"{size} bytes where {origin.size} are expected"
    elif origin.sha256 is not None and sha256_of(path) != origin.sha256:
        problem = f"wrong checksum (SHA-256 is not {origin.sha256})"
    else:
        return
    raise UserError(f"{path.with_name(origin.file)}: {problem}; delete it to fetch it again")


def fetch(origin: Origin, folder: Path, verify: Callable[[Path], None]) -> Path:
    """Download ``origin`` to ``folder``, which is created if it is missing.

    ``verify`` gets the path of the downloaded file under its temporary name, and raises
    ``UserError`` if its content is wrong; the file is then deleted.
    """
    pooch.get_logger().setLevel("WARNING")  # the caller logs one line itself

    def download(address: str, part: str, manager: object) -> None:
        (_by_https if origin.url else _by_pip)(address, Path(part), origin)
        check(Path(part), origin)
        verify(Path(part))

    address = origin.url or origin.requirement or ""
    files = pooch.create(
        folder,
        base_url="",
        registry={origin.file: origin.sha256},
        urls={origin.file: address},
        retry_if_failed=_ATTEMPTS - 1,
    )
    try:
        return Path(files.fetch(origin.file, downloader=download))
    except requests.RequestException as error:
        raise UserError(f"cannot download {address} ({_reason(error)})") from None
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{folder / origin.file}: cannot be written ({why})") from None


def _by_https(url: str, part: Path, origin: Origin) -> None:
    """Download ``url``; requests verifies the certificate and the name of the server."""
    most = origin.size or MAX_BYTES
    headers = {"User-Agent": "echojax", "Accept-Encoding": "identity"}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    get = partial(requests.get, stream=True, timeout=20, headers=headers)
    try:
        progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        with get(url, hooks={"response": stay_on_tls}) as response, progress as bar:
            response.raise_for_status()
            length = response.headers.get("Content-Length")
            task = bar.add_task(origin.file, total=int(length) if length else None)
            with part.open("wb") as file:
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    bar.advance(task, len(chunk))
                    if file.tell() > most:
                        raise UserError(f"{url}: longer than the expected {most} bytes")
            if length and part.stat().st_size < int(length):
                raise requests.ConnectionError("the connection closed early")
    except requests.RequestException as error:
        if _is_permanent(error):  # pooch does not try again after a ``UserError``
            raise UserError(f"cannot download {url} ({_reason(error)})") from None
        raise


def stay_on_tls(response: requests.Response, *args: Any, **options: Any) -> None:
    """Raise ``UserError`` if a server with TLS redirects to one without."""
    target = urljoin(response.url, response.headers.get("Location", ""))
    if response.url.startswith("https:") and not target.startswith("https:"):
        raise UserError(f"{response.url}: redirects to a server without TLS; not followed")


def _is_permanent(error: requests.RequestException) -> bool:
    """Return whether another attempt would fail as well."""
    if error.response is not None:
        return error.response.status_code not in _WORTH_A_RETRY
    return isinstance(error, requests.exceptions.SSLError) or "resolve" in str(error)


def _reason(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    found = re.search(r"\[Errno -?\d+\] ([^'\")]+)", str(error))
    return found.group(1) if found else str(error)


def _by_pip(requirement: str, part: Path, origin: Origin) -> None:
    """Download a wheel with pip, from the mirror that pip is configured for, if any."""
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder]
        done = subprocess.run([*command, requirement], capture_output=True, text=True)
        wheel = Path(folder) / origin.file
        if done.returncode or not wheel.exists():
            lines = done.stderr.strip().splitlines() or ["no such file"]
            raise UserError(f"pip cannot download {requirement} ({lines[-1]})")
        os.replace(wheel, part)
