"""experiments/recommend.py as a user runs it."""

import gzip
import json
import re
import signal
import time

import pytest


@pytest.fixture(scope="module")
def run(finished):
    return finished[0]


@pytest.mark.smoke
def test_one_history(call, run):
    code, out, err = call(
        "recommend.py", "--run-dir", run, "--history", "i3 i4, what,i5", "-k", "4"
    )
    assert code == 0, err
    assert "1 of 4 items unknown to this model: skipped" in out
    assert "history: Stop 3 · Stop 4 · what · Stop 5" in out
    item, *title, score = out.splitlines()[-4].split()
    assert (item, title) == ("i6", ["Stop", "6"])
    assert float(score) > float(out.splitlines()[-1].split()[-1])


def test_more_than_there_are(call, run):
    code, out, err = call("recommend.py", "--run-dir", run, "--history", "i3", "-k", 10**12)
    assert code == 0, err
    assert "29 of the 1,000,000,000,000 asked for: no other item is left" in out.splitlines()[-1]


def test_a_file_of_histories_goes_on_where_it_was_interrupted(call, start, run, tmp_path):
    users, whole, cut = 20_000, tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    lines = [f"u{n} i{n % 30} i{(n + 1) % 30}" for n in range(users)]
    lines[7] = "\nu7"  # nothing yet, and a blank line
    histories = tmp_path / "histories.txt.gz"
    histories.write_bytes(gzip.compress("\n".join(lines).encode()))
    asked = ["recommend.py", "--run-dir", run, "--histories", histories, "-k", "3"]
    asked += ["--batch-size", "512"]
    code, out, err = call(*asked, "--output", whole)
    assert code == 0, err
    assert f"{users:,} histories answered" in out
    answers = [json.loads(line) for line in whole.read_text().splitlines()]
    assert [answer["user"] for answer in answers] == [f"u{n}" for n in range(users)]
    assert answers[7]["by"] == "popularity"
    assert answers[3]["items"][0] == "i5"

    kept = interrupted(start(*asked, "--output", cut), tmp_path, "cut.jsonl", signal.SIGINT)
    assert not cut.exists()
    assert 0 < kept < whole.stat().st_size
    code, _, err = call(*asked, "--output", cut)
    assert code == 0, err
    assert cut.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".cut*"))


def interrupted(process, folder, name, kind):
    """Send a signal once the first answers are there; return how many bytes of them remain."""
    while not (parts := list(folder.glob(f".{name}.*.partial"))) or not parts[0].stat().st_size:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(kind)
    out, err = process.communicate()
    if kind == signal.SIGINT:
        assert (process.returncode, err) == (130, "")
        last = out.splitlines()[-1]  # a busy machine tells on the way how far it is
        assert re.fullmatch(r"stopped after [\d,]+ histories; the same command goes on", last)
    return parts[0].stat().st_size


@pytest.mark.slow
def test_a_file_of_histories_goes_on_where_it_was_killed(call, start, run, tmp_path):
    histories = tmp_path / "histories.txt"
    histories.write_text("u1 i3\n" * 200_000)
    asked = ["recommend.py", "--run-dir", run, "--histories", histories]
    interrupted(start(*asked, "--output", tmp_path / "cut"), tmp_path, "cut", signal.SIGKILL)
    for name in ("cut", "whole"):
        code, _, err = call(*asked, "--output", tmp_path / name)
        assert code == 0, err
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_failed_request_leaves_nothing(call, run, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"u1 i3\nu2 \xff\n")
    code, _, err = call(
        "recommend.py", "--run-dir", run, "--histories", "bad.txt", "--output", "out", cwd=tmp_path
    )
    assert code == 2
    assert "is not UTF-8" in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.txt"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "--history"),
        (["--history", "i1", "--histories", "x", "--output", "y"], "--histories"),
        (["--histories", "nowhere.txt"], "--output"),
        (["--history", "i1", "-k", "0"], "-k must"),
        (["--histories", "/", "--output", "out.jsonl"], "--histories / is a folder"),
        (["--histories", "nowhere.txt", "--output", "out.jsonl"], "nowhere.txt"),
    ],
)
def test_mistakes_are_one_line(call, run, tmp_path, flags, named):
    code, _, err = call("recommend.py", "--run-dir", run, *flags, cwd=tmp_path)
    assert code == 2
    assert named in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
