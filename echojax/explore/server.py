"""The page's addresses, and the server on the loopback interface."""

import contextlib
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from echojax.errors import UserError, one_line
from echojax.explore.answers import CHARACTERS, MOST, answers, read_question
from echojax.explore.runs import ExploredRun
from echojax.explore.scans import scan_page
from echojax.report.learned_figures import WHY_DIRECTIONS_EXCEED
from echojax.report.pages import render
from echojax.report.run_page import run_page
from echojax.report.run_record import read_run

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
REQUEST_SECONDS = 5  # for a client to send a request
_EXAMPLES = 12  # users to pick from
# Nothing is loaded from other sites, no script runs, and no other site can embed the page.
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def make_app(runs: Sequence[ExploredRun], scans: Path | None) -> Starlette:
    """Return the page as an ASGI application.

    The page names no folder of this machine: errors in files go to the log. Users are those of the
    data of the first run. The JSON file of a comparison of scans is read again for each request.
    """
    reports = {f"/runs/{number}": run for number, run in enumerate(runs, 1)}
    links = {"/": "Ask", **{address: run.name for address, run in reports.items()}}
    if scans is not None:
        links["/scans"] = "Scans"
    one_at_a_time = Lock()  # one question uses all cores

    def page(status: int = 200, problem: str = "", here: str = "", **values: Any) -> HTMLResponse:
        html = render(
            "explore.html",
            title="Ask a trained run",
            subtitle="What it recommends next, and which past events moved the scores.",
            links=links,
            here=here,
            problem=problem,
            **{"form": None, "answers": [], "explained": "", **values},
        )
        return HTMLResponse(html, status, headers=_HEADERS)

    def form(request: Request) -> dict[str, Any]:
        """Return the values of the forms, as they were typed, valid or not."""
        typed = {n: request.query_params.get(n, "")[:CHARACTERS] for n in ("user", "history", "k")}
        example = ", ".join(runs[0].recommender.item_ids.item_ids_V[1:4].tolist())
        return {**typed, "most": MOST, "users": runs[0].users(_EXAMPLES), "example": example}

    def ask(request: Request) -> HTMLResponse:
        question = read_question(request.query_params)
        with one_at_a_time:
            found = answers(question, runs)
        why = WHY_DIRECTIONS_EXCEED
        return page(here="/", form=form(request), why_directions_exceed=why, **found)

    def report(request: Request) -> HTMLResponse:
        if request.url.path not in reports:
            raise HTTPException(404)
        with one_at_a_time:
            run = read_run(reports[request.url.path].folder)
            html = run_page(run, links=links, here=request.url.path)
        return HTMLResponse(html, headers=_HEADERS)

    def mistake(request: Request, error: Exception) -> HTMLResponse:
        if request.url.path == "/":  # an error in the question
            return page(400, one_line(error), form=form(request))
        log.error("%s", one_line(error))  # an error in a file
        return page(500, "This cannot be shown: a file cannot be read. The terminal names it.")

    def absent(request: Request, error: Exception) -> HTMLResponse:
        status = error.status_code if isinstance(error, HTTPException) else 404
        missing = status == 404
        return page(status, "There is no such page." if missing else "This page can only be read.")

    def broken(request: Request, error: Exception) -> HTMLResponse:
        return page(500, "This cannot be answered: an error in echojax, which the terminal shows.")

    def comparison(request: Request) -> HTMLResponse:
        if scans is None:
            raise HTTPException(404)
        with one_at_a_time:
            html = scan_page(scans, links=links, here="/scans")
        return HTMLResponse(html, headers=_HEADERS)

    return Starlette(
        routes=[Route("/", ask), Route("/runs/{number}", report), Route("/scans", comparison)],
        # Other sites must not reach this page under their own host names (DNS rebinding).
        middleware=[
            Middleware(
                TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"], www_redirect=False
            )
        ],
        exception_handlers={UserError: mistake, HTTPException: absent, Exception: broken},
    )


class _Protocol(H11Protocol):
    """HTTP that closes a connection if the client does not send a whole request in time."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_request()

    def _await_request(self) -> None:
        self.loop.call_later(REQUEST_SECONDS, self._close_unless_answering)

    def _close_unless_answering(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def listen(port: int) -> socket.socket:
    """Return a socket on the loopback interface; port 0 takes a free one."""
    if not 0 <= port < 2**16:
        raise UserError(f"--port must be from 0 to 65535, not {port}")
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        # Not ``error.strerror``, to which Python adds the address.
        reason = os.strerror(error.errno or 0)
        raise UserError(f"--port {port}: {reason}; name another one") from None


def serve(app: Starlette, listening: socket.socket) -> None:
    """Serve until Ctrl-C."""
    config = uvicorn.Config(
        app, http=_Protocol, log_level="warning", access_log=False, server_header=False
    )
    # uvicorn raises the signal again after it has stopped, unless Ctrl-C was ignored before.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
    log.info("stopped")
