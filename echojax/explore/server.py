"""The page's addresses, and the server on the loopback interface."""

import contextlib
import os
import socket
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from threading import Lock

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from echojax.errors import UserError, one_line
from echojax.explore.answers import answers
from echojax.explore.form import form
from echojax.explore.question import read_question
from echojax.explore.runs import ExploredRun
from echojax.files import read_json
from echojax.reporting.page import page as report_page
from echojax.reporting.run_record import read_run
from echojax.scan_comparison.page import page as scan_page
from echojax.scan_comparison.pictures import pictures as scan_pictures

LOOPBACK = "127.0.0.1"
# Nothing comes from outside, nothing runs in the browser, no other site shows the page in its own.
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

_CURRENT = ' aria-current="page"'


def make_app(runs: Sequence[ExploredRun], scans: Path | None) -> Starlette:
    """Return the page as an ASGI application.

    Args:
        runs: one or two; a user is picked from the data of the first.
        scans: the folder of a comparison of scans, read anew for each visit; ``None``: no such
            page.
    """
    links = {"/": "Ask", **{f"/runs/{n}": run.name for n, run in enumerate(runs, 1)}}
    if scans is not None:
        links["/scans"] = "Scans"
    one_at_a_time = Lock()  # a question takes all cores anyway

    def ask(request: Request) -> HTMLResponse:
        question = read_question(request.query_params)
        with one_at_a_time:
            said = "" if question.is_empty else answers(question, runs)
        return _answer(_page(_nav(links, "/"), form(request.query_params, runs[0]) + said))

    def run(request: Request) -> HTMLResponse:
        number = request.path_params["number"]
        if not 1 <= number <= len(runs):
            raise HTTPException(404)
        with one_at_a_time:
            report = report_page(read_run(runs[number - 1].folder))
        return _answer(_with_nav(report, _nav(links, f"/runs/{number}")))

    def scan_comparison(request: Request) -> HTMLResponse:
        if scans is None:
            raise HTTPException(404)
        with one_at_a_time:
            results = read_json(scans / "results.json")
            comparison = scan_page(results, scan_pictures(results))
        return _answer(_with_nav(comparison, _nav(links, "/scans")))

    def mistake(request: Request, error: Exception) -> HTMLResponse:
        said = form(request.query_params, runs[0]) + _alert(one_line(error))
        return _answer(_page(_nav(links, ""), said), 400)

    def absent(request: Request, error: Exception) -> HTMLResponse:
        status = error.status_code if isinstance(error, HTTPException) else 404
        words = "There is no such page." if status == 404 else "This page can only be read."
        return _answer(_page(_nav(links, ""), _alert(words)), status)

    def broken(request: Request, error: Exception) -> HTMLResponse:
        words = "This question cannot be answered: an error in echojax, which the terminal shows."
        return _answer(_page(_nav(links, ""), _alert(words)), 500)

    return Starlette(
        routes=[
            Route("/", ask),
            Route("/runs/{number:int}", run),
            Route("/scans", scan_comparison),
        ],
        # A page elsewhere must not reach this one under a name of its own (DNS rebinding).
        middleware=[
            Middleware(
                TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"], www_redirect=False
            )
        ],
        exception_handlers={UserError: mistake, HTTPException: absent, Exception: broken},
    )


def listen(port: int) -> socket.socket:
    """Return a socket on the loopback interface; port 0 takes a free one.

    Raises:
        UserError: the port is taken or not allowed.
    """
    if not 0 <= port < 2**16:
        raise UserError(f"--port must be from 0 to 65535, not {port}")
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        # Not strerror, to which Python adds the address.
        reason = os.strerror(error.errno or 0)
        raise UserError(f"--port {port}: {reason}; name another one") from None


def serve(app: Starlette, listening: socket.socket) -> None:
    """Serve until Ctrl-C."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    # Where Ctrl-C was ignored before, uvicorn stops without passing it on.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
    print("stopped")


def _alert(words: str) -> str:
    return f'<p class="error" role="alert">{escape(words)}</p>'


def _answer(html: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(html, status, headers=_HEADERS)


def _nav(links: dict[str, str], here: str) -> str:
    shown = "\n".join(
        f'<a href="{address}"{_CURRENT if address == here else ""}>{escape(name)}</a>'
        for address, name in links.items()
    )
    return f"<nav>\n{shown}\n</nav>"


def _page(nav: str, content: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Ask a trained run</title>
<style>
{files("echojax.reporting").joinpath("page.css").read_text()}{_css()}</style>
</head>
<body>
<main>
{nav}
<h1>Ask a trained run</h1>
<p class="subtitle">What it recommends next, and which past events moved the scores.</p>
{content}
</main>
</body>
</html>
"""


def _with_nav(page: str, nav: str) -> str:
    """Return a page that is whole in itself with links to the others."""
    page = page.replace("</style>", f"{_css()}</style>", 1)
    return page.replace("<main>", f"<main>\n{nav}", 1)


def _css() -> str:
    return files("echojax.explore").joinpath("page.css").read_text()
