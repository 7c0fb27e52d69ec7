"""The page as a browser sees it: in-process, and once from the command that serves it."""

import asyncio
import dataclasses
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote
from urllib.request import urlopen

import numpy as np
import pytest

from echojax.data import global_time_split
from echojax.errors import UserError
from echojax.explore.answers import Question, read_question
from echojax.explore.runs import check_same_items, read_explored
from echojax.explore.server import listen, make_app
from echojax.serving import Recommender

ROOT = Path(__file__).parent.parent.parent
SCANS = ROOT / "benchmarks/results/scans-cpu.json"
HALF = r'["i1", "\ud83d"]'
TITLE = '<script>document.title = "taken"</script>\x1b[31m'


@pytest.fixture(scope="module")
def folder(ring_run, tmp_path_factory):
    """Return the folder of a run, one of whose items has an odd title."""
    folder = tmp_path_factory.mktemp("explored") / "run"
    shutil.copytree(ring_run, folder)
    items = (folder / "items.json").read_text()
    (folder / "items.json").write_text(items.replace('"Stop 6 (1996)"', json.dumps(TITLE)))
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return read_explored(folder)


@pytest.fixture(scope="module")
def get(run, tmp_path_factory):
    """Return a function that asks two runs: an address -> (status, body, headers).

    They are the same but for the folder of the second, which has nothing to draw.
    """
    bare = tmp_path_factory.mktemp("bare")
    shutil.copy(run.folder / "config.json", bare)
    return asking(make_app([run, dataclasses.replace(run, folder=bare)], SCANS))


def asking(app):
    def get(address, method="GET", host="127.0.0.1"):
        path, _, query = address.partition("?")
        scope = {
            "type": "http", "method": method, "path": unquote(path), "query_string": query.encode(),
            "headers": [(b"host", host.encode())],
        }  # fmt: skip
        sent = []

        async def receive():
            return {"type": "http.request"}

        async def send(message):
            sent.append(message)

        try:
            asyncio.run(app(scope, receive, send))
        except IndexError:  # an error of ours: it goes on to the terminal
            assert sent[0]["status"] == 500
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        body = b"".join(message.get("body", b"") for message in sent).decode()
        return sent[0]["status"], body, headers

    return get


def test_a_user_is_answered_with_titles_and_reasons(get):
    status, body, headers = get("/?user=u3&k=5")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert body.count("<section>") == 2  # two runs side by side
    assert body.count("held-out last item, Stop ") == 2
    assert body.count(">· in both</span>") == 2 * 5
    assert body.count('<tr class="chosen">') == 2
    assert 'href="/?user=u3&amp;k=5&amp;item=' in body
    assert '#why-2">Stop ' in body
    assert body.count(">backward</th>") == 2
    assert body.count("The two directions together can exceed the whole") == 2
    assert body.count(" %</td>") == 2 * 3 * 8  # shares of the events that the model reads


def test_a_last_item_that_was_trained_on_is_not_called_held_out(run):
    """By global time, of the users whose events are all before the first point in time."""
    times_T = np.arange(run.dataset.times_T.size)  # one user after the other
    split = global_time_split(dataclasses.replace(run.dataset, times_T=times_T, fingerprint={}), 8)
    get = asking(make_app([dataclasses.replace(run, split=split)], None))
    first, *_, last = run.dataset.user_ids.tolist()
    for user, words in ((first, "last item (not held out), Stop "), (last, "held-out last item, ")):
        assert f"The user&#39;s {words}" in get(f"/?user={user}")[1]


def test_a_history_is_answered_and_an_item_explained(get):
    _, body, _ = get("/?history=i2+i3,nowhere%0D%0Ai4+i5&k=3&item=i20")
    assert "Items that this run does not know are skipped: 1 of 5." in body
    assert 'What moved the score of Stop 20 (2010) <span class="id">i20</span>' in body
    assert ">i2 i3,nowhere\ni4 i5</textarea>" in body
    _, body, _ = get("/?history=" + "+".join(f"i{n}" for n in range(9)))
    assert "The model reads the newest 8 of the history&#39;s 9 items." in body
    _, body, _ = get("/?history=i3&item=nope")
    assert "This run does not know the item &#39;nope&#39; and cannot explain it." in body


def test_popularity_has_whole_numbers_and_no_reasons(get):
    _, body, _ = get("/?history=nowhere")
    assert "This run knows no item of the history. These are the most popular items." in body
    assert "What moved" not in body
    assert re.search(r'<th scope="row">Stop \d+ \(\d+\) .*</th><td>\d+</td>', body)


def test_a_run_whose_data_is_not_here(run):
    recommender = Recommender(run.model, run.recommender.item_ids.item_ids_V)
    absent = dataclasses.replace(run, dataset=None, split=None, recommender=recommender)
    get = asking(make_app([absent], None))
    status, body, _ = get("/?history=nowhere")
    assert status == 400
    assert "there is no popularity to answer by" in body
    assert '<input name="user"' not in body
    status, body, _ = get("/?user=u3")
    assert status == 400
    assert f"the data of {run.name} is not here; type a history instead" in body
    assert get("/scans")[0] == 404


def test_a_folder_whose_name_is_not_utf_8(folder, tmp_path):
    named = shutil.copytree(folder, tmp_path / os.fsdecode(b"run\xff"))
    (named / "insight.npz").unlink()  # the longest to draw
    get = asking(make_app([read_explored(named)], None))
    for address, status in (("/", 200), ("/?history=i3", 200), ("/runs/1", 200), ("/no", 404)):
        found, body, _ = get(address)
        assert found == status
        assert r"(run\udcff)" in body


def test_a_history_of_everything(get):
    status, body, _ = get("/?history=" + "+".join(f"i{n}" for n in range(30)))
    assert status == 200
    assert body.count("No item is left to recommend.") == 2
    assert "What moved" not in body


def test_nothing_that_is_typed_or_read_runs(get):
    _, body, _ = get("/?history=i3+i4+i5+%3Cscript%3E&item=%22%3E%3Cscript%3E")
    assert "&lt;script&gt;document.title" in body  # the title of i6, which comes next
    assert r"\x1b[31m" in body
    assert "\x1b" not in body
    assert "<script" not in body
    _, body, _ = get("/?user=%3Cscript%3Ex%22y")
    assert "<script" not in body
    assert "user &#39;&lt;script&gt;x&#34;y&#39; is not in the data of this run" in body
    assert 'name="user" value="&lt;script&gt;x&#34;y"' in body


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/?history=i1&k=0", "k must be a whole number from 1 to 100, not &#39;0&#39;"),
        ("/?history=i1&k=101", "k must be"),
        ("/?history=i1&k=%C2%B2", "k must be"),
        ("/?history=" + "i1+" * 2001, "give the newest 2,000"),
        ("/?history=" + "i" * 20_001, "longer than 20,000 characters"),
        ("/?user=nobody", "pick another"),
        ("/?user=nobody", 'name="user" value="nobody"'),
        ("/?history=i1+i2&k=0", ">i1 i2</textarea>"),
        ("/?user=+", "the question is empty; type a user"),
        (f"/?history={quote(HALF)}", "holds half of a character"),
    ],
)
def test_mistakes_are_named_in_one_line(get, address, words):
    status, body, _ = get(address)
    assert status == 400
    assert words in body
    assert "Traceback" not in body


def test_only_the_pages_are_served(get, folder):
    for address, words in (
        ("/runs/1", "Learned FFT filters"),
        ("/scans", "data:image/png;base64,"),
    ):
        status, body, _ = get(address)
        assert status == 200
        assert words in body
        assert "<nav>" in body
        assert str(folder.parent) not in body
        assert f'<a href="{address}" aria-current="page">' in body
    assert "data path</th><td>ring.inter</td>" in get("/runs/2")[1]  # no folder of this machine
    up = "/../" * 8 + "etc/passwd"
    number = "/runs/" + "1" * 5000
    for address in (
        "/runs/0", "/runs/3", "/runs/1/config.json", up, quote(up, safe=""), "//etc", number,
    ):  # fmt: skip
        assert get(address)[0] == 404
    assert get("/", "POST")[0] == 405
    assert get("/", host="example.org")[0] == 400


def test_a_damaged_file_is_named_on_the_terminal_only(get, folder, caplog):
    path = folder / "insight.npz"
    whole = path.read_bytes()
    np.savez(path, **{f"filter/0/{when}": np.array(["a", "b"]) for when in ("before", "after")})
    status, body, _ = get("/runs/1")
    path.write_bytes(whole)
    assert status == 500
    assert "a file cannot be read. The terminal names it." in body
    assert str(folder) not in body
    assert f"{path}: filter/0 is not what an analysis" in caplog.text


def test_an_error_of_ours_keeps_the_layout(get, monkeypatch):
    def fails(*args):
        raise IndexError("list index out of range")

    monkeypatch.setattr("echojax.explore.server.answers", fails)
    status, body, _ = get("/")
    assert status == 500
    assert "<nav>" in body
    assert "an error in echojax" in body
    assert "list index" not in body


def test_runs_of_other_data_are_not_compared(run, tmp_path):
    config = dataclasses.replace(run.config, data_path="other.inter")
    moved = dataclasses.replace(run, config=config)
    check_same_items([run, moved])  # the same data in another place
    recut = dataclasses.replace(run, data_sha256="0")
    check_same_items([run, recut])  # the same file, prepared in another way
    with pytest.raises(UserError, match="trained on different data, where an id can be another"):
        check_same_items([run, dataclasses.replace(moved, data_sha256="0")])
    (tmp_path / "data.npz").touch()
    memory = dataclasses.replace(run, folder=tmp_path)
    check_same_items([memory, memory])
    with pytest.raises(UserError, match="trained on different data, where an id can be another"):
        check_same_items([memory, dataclasses.replace(memory, data_sha256="0")])


def test_a_question_is_read_back_from_its_address():
    question = read_question({"history": " a, b;c\n", "k": " 7 ", "item": "x&y"})
    assert question == Question(history=("a", "b", "c"), k=7, item="x&y")
    assert question.about("x&y") == "/?history=a+b+c&k=7&item=x%26y"
    assert read_question({"user": "u", "history": "a"}) == Question(user="u")
    assert read_question({"user": " \xa0u ", "item": "i\xa0\t"}) == Question("\xa0u", item="i\xa0")
    assert read_question({}).is_empty
    blanks = Question(history=("a b", "c,d"))
    query = unquote(blanks.about("").partition("?")[2].replace("+", " "))
    assert read_question(dict(part.split("=") for part in query.split("&"))) == blanks


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: Address already in use; name"):
            listen(port)
    with pytest.raises(UserError, match="--port must be from 0 to 65535, not 70000"):
        listen(70000)


@pytest.fixture(scope="module")
def serving(folder):
    """Return a process that serves two runs, and its port."""
    command = [sys.executable, ROOT / "experiments/explore.py", "--run-dir", folder, folder]
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        assert line.startswith("open http://127.0.0.1:"), process.stderr.read()
        yield process, int(line.split(":")[2].split("/")[0])
        process.kill()


def test_in_a_browser(serving):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium not found (Debian's package has this name)")
    address = f"http://127.0.0.1:{serving[1]}/?history=i3+i4+i5&k=3"
    with urlopen(address) as answer:  # whose programs are compiled now: the browser waits 20 s
        assert answer.status == 200
    shown = subprocess.run(
        [
            chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--timeout=20000",
            "--dump-dom", address,
        ],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    assert "<title>Ask a trained run</title>" in shown  # no script has run
    assert shown.count("<section>") == 2
    assert "What moved the score of" in shown


@pytest.mark.slow
def test_half_a_request_is_not_waited_for_and_an_interrupt_ends_the_server(serving):
    process, port = serving
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as silent,
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as again,
    ):
        again.request("GET", "/")
        assert again.getresponse().read().count(b"<form") == 2
        again.sock.sendall(b"GET / HTTP/1.1\r\nHo")
        assert silent.recv(1) == again.sock.recv(1) == b""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "stopped\n", "")
