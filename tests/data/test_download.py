import hashlib
import http.server
import os
import subprocess
import threading
import types
from pathlib import Path

import pytest
import requests

from echojax.data import DATASETS, download
from echojax.data.download import fetch, stay_on_tls
from echojax.data.sources import Origin
from echojax.errors import UserError

CONTENT = os.urandom(1 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; ``plan`` says, request by request, what goes wrong."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.requests = [], 0

    def origin(self, **known):
        url = f"http://127.0.0.1:{self.server_port}/file.bin"
        return Origin(**{"file": "file.bin", "url": url, "sha256": SHA256, **known})


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        fault = self.server.plan.pop(0) if self.server.plan else "none"
        if fault.isdigit():
            self.send_error(int(fault))
            return
        self.send_response(200)
        if fault != "no length":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if fault == "breaks" else CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)


@pytest.fixture
def server():
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def anything(part):
    assert part.exists()


@pytest.mark.parametrize("plan", [[], ["no length"], ["503", "429"], ["breaks", "503", "breaks"]])
def test_arrives_whole_whatever_goes_wrong(plan, server, tmp_path):
    server.plan = list(plan)
    folder = tmp_path / "new" / "folder"
    assert fetch(server.origin(), folder, anything).read_bytes() == CONTENT
    assert os.listdir(folder) == ["file.bin"]


WRONG = {
    "size": ({"size": 7, "sha256": None}, "longer than the expected 7 bytes"),
    "short": ({"size": 1 << 21}, f"{len(CONTENT)} bytes where {1 << 21} are expected"),
    "checksum": ({"sha256": "0" * 64}, "file.bin: wrong checksum"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_leaves_nothing_and_is_not_asked_for_again(case, server, tmp_path):
    known, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        fetch(server.origin(**known), tmp_path, anything)
    assert os.listdir(tmp_path) == []
    assert server.requests == 1


def test_what_the_caller_refuses_never_gets_its_name(server, tmp_path):
    def refuse(part):
        assert part.read_bytes() == CONTENT
        raise UserError("not the published numbers")

    with pytest.raises(UserError, match="not the published numbers"):
        fetch(server.origin(sha256=None), tmp_path, refuse)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("status", "attempts"), [("503", 4), ("404", 1)])
def test_gives_up_at_once_or_after_some_attempts(status, attempts, server, tmp_path):
    server.plan = [status] * 9
    with pytest.raises(UserError, match=rf"cannot download http.*/file.bin \({status} "):
        fetch(server.origin(), tmp_path, anything)
    assert server.requests == attempts
    assert os.listdir(tmp_path) == []


def test_endless_content_is_cut(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    server.plan = ["no length"]
    with pytest.raises(UserError, match="longer than the expected 1000 bytes"):
        fetch(server.origin(), tmp_path, anything)


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.SSLError("certificate verify failed: self-signed"),
        requests.ConnectionError("Failed to resolve 'x' ([Errno -2] Name or service not known)"),
    ],
)
def test_what_will_not_get_better_is_not_tried_again(error, tmp_path, monkeypatch):
    calls = []

    def get(url, **options):
        calls.append(url)
        assert options["hooks"] == {"response": stay_on_tls}
        raise error

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(UserError, match=r"\((certificate verify failed|Name or service not known)"):
        fetch(Origin(file="f", url="https://example.invalid/f"), tmp_path, anything)
    assert len(calls) == 1


def test_several_at_once_all_end_with_the_whole_file(server, tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(server.origin(), tmp_path, anything)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "file.bin"] * 4
    assert found[0].read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["file.bin"]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        fetch(Origin(file="f", url="http://127.0.0.1:9/f"), tmp_path / "file", anything)


def test_pip_downloads_a_wheel_and_installs_nothing(tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        if command[-1] == "missing==1.0":
            return subprocess.CompletedProcess(command, 1, "", "WARNING\nERROR: No matching x\n")
        (Path(command[command.index("--dest") + 1]) / "thing-1.0.whl").write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    origin = Origin(file="thing-1.0.whl", requirement="thing==1.0", sha256=SHA256)
    assert fetch(origin, tmp_path / "a", anything).read_bytes() == CONTENT
    assert commands[0][1:5] == ["-m", "pip", "download", "--no-deps"]
    assert os.listdir(tmp_path / "a") == ["thing-1.0.whl"]
    with pytest.raises(UserError, match=r"pip cannot download missing==1.0 \(ERROR: No matching x"):
        fetch(Origin(file="thing.whl", requirement="missing==1.0"), tmp_path / "b", anything)
    assert os.listdir(tmp_path / "b") == []


def test_every_url_uses_tls_and_every_origin_says_how():
    origins = [origin for source in DATASETS.values() for origin in source.origins]
    assert len(origins) >= 5
    for origin in origins:
        assert (origin.url is None) != (origin.requirement is None)
        assert origin.url is None or origin.url.startswith("https://")
        assert origin.sha256 is None or len(bytes.fromhex(origin.sha256)) == 32


@pytest.mark.parametrize(
    ("target", "refused"),
    [
        *[("https://b.example/f", False), ("//b.example/f", False), ("/g", False)],
        *[("http://b.example/f", True), ("ftp://b.example/f", True)],
    ],
)
def test_redirects_stay_on_tls(target, refused):
    response = types.SimpleNamespace(url="https://a.example/f", headers={"Location": target})
    if refused:
        with pytest.raises(UserError, match="without TLS"):
            stay_on_tls(response)
    else:
        stay_on_tls(response)
