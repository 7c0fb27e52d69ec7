"""experiments/recommend.py as a user runs it; what it does to files is in tests/serving."""

import json
import re
import signal

import pytest

from tests.commands.conftest import wait_until


@pytest.fixture(scope="module")
def run(finished):
    return finished[0]


@pytest.mark.smoke
def test_one_history(works, run):
    out = works("recommend", "--run-dir", run, "--history", "i3 i4, what,i5", "-k", "4")
    step = json.loads((run / "results.json").read_text())["train"]["best_step"]
    assert out.splitlines()[0] == f"step {step} of {run}"
    assert "Items that this model does not know are skipped: 1 of 4." in out
    assert "history: Stop 3 (1993) · Stop 4 (1994) · what · Stop 5 (1995)" in out
    item, *title, score = out.splitlines()[-4].split()
    assert (item, title) == ("i6", ["Stop", "6", "(1996)"])
    assert float(score) > float(out.splitlines()[-1].split()[-1])


def test_more_than_there_are(works, run):
    out = works("recommend", "--run-dir", run, "--history", "i3", "-k", 10**12)
    assert "29 of the 1,000,000,000,000 asked for: no other item is left" in out.splitlines()[-1]


@pytest.mark.slow
def test_a_file_of_histories_goes_on_where_it_was_interrupted(works, start, run, tmp_path):
    users, whole, cut = 20_000, tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    (tmp_path / "histories").write_text("".join(f"u{n} i{n % 30}\n" for n in range(users)))
    asked = ["recommend", "--run-dir", run, "--histories", tmp_path / "histories"]
    asked += ["--batch-size", "512"]
    out = works(*asked, "--output", whole)
    assert out.splitlines()[-1] == f"{users:,} histories answered: {whole}"
    assert len(whole.read_text().splitlines()) == users

    kept = interrupted(start(*asked, "--output", cut), tmp_path, "cut.jsonl", signal.SIGINT)
    assert not cut.exists()
    assert 0 < kept < whole.stat().st_size
    works(*asked, "--output", cut)
    assert cut.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".cut*"))


def interrupted(process, folder, name, kind):
    """Send a signal once the first answers are there; return how many bytes of them remain."""

    def parts():
        return [path for path in folder.glob(f".{name}.*.partial") if path.stat().st_size]

    wait_until(parts, process)
    process.send_signal(kind)
    out, err = process.communicate()
    if kind == signal.SIGINT:
        assert (process.returncode, err) == (130, "")
        last = out.splitlines()[-1]
        assert re.fullmatch(r"stopped after [\d,]+ histories; the same command goes on", last)
    return parts()[0].stat().st_size


@pytest.mark.slow
def test_a_file_of_histories_goes_on_where_it_was_killed(works, start, run, tmp_path):
    histories = tmp_path / "histories.txt"
    histories.write_text("u1 i3\n" * 200_000)
    asked = ["recommend", "--run-dir", run, "--histories", histories]
    interrupted(start(*asked, "--output", tmp_path / "cut"), tmp_path, "cut", signal.SIGKILL)
    for name in ("cut", "whole"):
        works(*asked, "--output", tmp_path / name)
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "--history"),
        (["--history", "i1", "--histories", "x", "--output", "y"], "--histories"),
        (["--histories", "nowhere.txt"], "--output"),
        (["--histories", "/", "--output", "out.jsonl"], "--histories / is a folder"),
        (["--histories", "nowhere.txt", "--output", "out.jsonl"], "nowhere.txt"),
    ],
)
def test_mistakes_are_one_line(mistake, run, tmp_path, flags, named):
    assert named in mistake("recommend", "--run-dir", run, *flags, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
