"""Download a file: resumed, retried, verified, and renamed into place only when it is right."""

import http.client
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from echojax.errors import UserError

# Files without a known size: far above any of them, far below a full disk.
MAX_BYTES = 1 << 30
_CHUNK = 1 << 18
_WORTH_A_RETRY = (408, 425, 429, 500, 502, 503, 504)


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
        response = open_url(request)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is missing; verification decides
            error.close()
            return
        raise
    with response:
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


class StaysOnTls(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but from TLS to TLS alone, each step of them."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:  # fmt: skip
        """Return the request for where the server points; ``UserError`` where TLS ends."""
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise UserError(f"{req.full_url}: redirects to a server without TLS; not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(request: urllib.request.Request) -> Any:
    """Return the response to a request; of TLS the certificate and the host name are verified."""
    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    return urllib.request.build_opener(StaysOnTls, tls).open(request, timeout=20)


def _progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
