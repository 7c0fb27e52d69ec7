import hashlib
import http.server
import os
import socket
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from echojax.data.download import StaysOnTls, download
from echojax.data.fetch import check, fetch
from echojax.data.sources import DATASETS, Origin
from echojax.errors import UserError

CONTENT = os.urandom(1 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; ``plan`` says, request by request, what goes wrong."""

    plan: list[str]
    ranges: list[str | None]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.ranges.append(self.headers["Range"])
        fault = self.server.plan.pop(0) if self.server.plan else "none"
        if fault.isdigit():
            self.send_error(int(fault))
            return
        start = 0
        if self.headers["Range"] and fault != "ignores range":
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            first = start + 1 if fault == "other place" else start
            end = len(CONTENT) - 1
            self.send_header("Content-Range", f"bytes {first}-{end}/{len(CONTENT)}")
        if fault != "no length":
            self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = len(CONTENT) // 2 if fault == "breaks" else len(CONTENT)
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as serving:
        serving.plan, serving.ranges = [], []
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def verify(path):
    check(path, Origin(file="file.bin", size=len(CONTENT), sha256=SHA256))


def get(server, target, **options):
    download(server.url, target, verify, pause=0.001, **options)


@pytest.mark.parametrize(
    "plan",
    [
        [],
        ["no length"],
        ["503", "429"],
        ["breaks"],
        ["breaks", "503"],
        ["breaks", "ignores range"],
        ["breaks", "other place"],
    ],
)
def test_arrives_whole_whatever_goes_wrong(plan, server, tmp_path):
    server.plan = list(plan)
    target = tmp_path / "file.bin"
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["file.bin"]
    if "breaks" in plan:
        assert server.ranges[1] == f"bytes={len(CONTENT) // 2}-"


def test_a_later_call_resumes_where_an_earlier_one_broke(server, tmp_path):
    server.plan = ["breaks", "404"]
    target = tmp_path / "file.bin"
    with pytest.raises(UserError, match=r"cannot download http.*\(404"):
        get(server, target)
    assert os.listdir(tmp_path) == ["file.bin.part"]
    get(server, target)
    assert server.ranges[-1] == f"bytes={len(CONTENT) // 2}-"
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"of an older version", CONTENT + b"too much", CONTENT])
def test_a_part_that_does_not_fit_is_thrown_away(stale, server, tmp_path):
    target = tmp_path / "file.bin"
    (tmp_path / "file.bin.part").write_bytes(stale)
    get(server, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (Origin(file="f", size=7), f"{len(CONTENT)} bytes where 7 are expected"),
        (Origin(file="f", sha256="0" * 64), "wrong checksum"),
    ],
)
def test_wrong_content_leaves_nothing(origin, message, server, tmp_path):
    with pytest.raises(UserError, match=message):
        download(server.url, tmp_path / "f", lambda part: check(part, origin), pause=0.001)
    assert os.listdir(tmp_path) == []


def test_gives_up_after_some_attempts(server, tmp_path):
    server.plan = ["503"] * 9
    with pytest.raises(UserError, match="503"):
        get(server, tmp_path / "f", attempts=3)
    assert len(server.ranges) == 3


def test_endless_content_is_cut(server, tmp_path):
    with pytest.raises(UserError, match="longer than the expected 1000 bytes"):
        get(server, tmp_path / "f", max_bytes=1000)


def test_no_connection_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot download .* \(Connection refused\)"):
        download("http://127.0.0.1:9/x", tmp_path / "f", verify, attempts=2, pause=0.001)


@pytest.mark.parametrize(
    "reason", [ssl.SSLCertVerificationError(1, "self-signed"), socket.gaierror(-2, "no name")]
)
def test_what_will_not_get_better_is_not_tried_again(reason, tmp_path, monkeypatch):
    calls = []

    def open_url(request):
        calls.append(request)
        raise urllib.error.URLError(reason)

    monkeypatch.setattr("echojax.data.download.open_url", open_url)
    with pytest.raises(UserError, match="cannot download"):
        download("https://example.invalid/f", tmp_path / "f", verify)
    assert len(calls) == 1


def test_fetch_finds_what_another_process_fetched(server, tmp_path):
    origin = Origin(file="file.bin", url=server.url, size=len(CONTENT), sha256=SHA256)
    folder = tmp_path / "new" / "folder"
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(origin, folder, verify)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [folder / "file.bin"] * 4
    assert len(server.ranges) == 1
    assert os.listdir(folder) == ["file.bin"]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        fetch(Origin(file="f", url="http://127.0.0.1:9/f"), tmp_path / "file", verify)


def test_pip_downloads_a_wheel_and_installs_nothing(tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / "thing-1.0.whl").write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    origin = Origin(file="thing-1.0.whl", requirement="thing==1.0")
    assert fetch(origin, tmp_path, verify).read_bytes() == CONTENT
    assert commands[0][1:5] == ["-m", "pip", "download", "--no-deps"]
    assert commands[0][-1] == "thing==1.0"
    assert os.listdir(tmp_path) == ["thing-1.0.whl"]


def test_pip_that_fails_is_one_line(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: slow\nERROR: No matching thing\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(UserError, match=r"pip cannot download thing==1.0 \(ERROR: No matching"):
        fetch(Origin(file="thing.whl", requirement="thing==1.0"), tmp_path, verify)
    assert os.listdir(tmp_path) == []


def test_every_url_uses_tls_and_every_origin_says_how():
    origins = [origin for source in DATASETS.values() for origin in source.origins]
    assert len(origins) >= 5
    for origin in origins:
        assert (origin.url is None) != (origin.requirement is None)
        assert origin.url is None or origin.url.startswith("https://")
        assert origin.sha256 is None or len(bytes.fromhex(origin.sha256)) == 32


def test_redirects_stay_on_tls():
    request, answer = urllib.request.Request("https://a.example/f"), (None, 302, "Found", {})
    follows = StaysOnTls()
    same = follows.redirect_request(request, *answer, "https://b.example/f")
    assert same.full_url == "https://b.example/f"
    for elsewhere in ("http://b.example/f", "ftp://b.example/f"):
        with pytest.raises(UserError, match="without TLS"):
            follows.redirect_request(request, *answer, elsewhere)
