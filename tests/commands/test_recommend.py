"""experiments/recommend.py as a user runs it; what it does to files is in tests/serving."""

import json
import re
import signal
import sys
import time

import pytest

from experiments import recommend


@pytest.fixture(scope="module")
def run(finished):
    return finished[0]


@pytest.fixture
def ask(run, monkeypatch, capsys):
    """Return a function that runs the command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(recommend, "use_compilation_cache", lambda: None)
    monkeypatch.setenv("COLUMNS", "100")

    def ask(*flags):
        words = ["recommend.py", "--run-dir", run, *flags]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        code = 0
        try:
            recommend.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return ask


def test_one_history(ask, run):
    code, out, err = ask("--history", "i3 i4, what,i5", "-k", "4")
    assert code == 0, err
    step = json.loads((run / "results.json").read_text())["train"]["best_step"]
    assert out.splitlines()[0] == f"step {step} of {run}"
    assert "1 of 4 items unknown to this model: skipped" in out
    assert "history: Stop 3 · Stop 4 · what · Stop 5" in out
    item, *title, score = out.splitlines()[-4].split()
    assert (item, title) == ("i6", ["Stop", "6"])
    assert float(score) > float(out.splitlines()[-1].split()[-1])


def test_more_than_there_are(ask):
    code, out, err = ask("--history", "i3", "-k", 10**12)
    assert code == 0, err
    assert "29 of the 1,000,000,000,000 asked for: no other item is left" in out.splitlines()[-1]


def test_a_file_of_histories(ask, tmp_path):
    (tmp_path / "histories").write_text("".join(f"u{n} i{n % 30}\n" for n in range(1500)))
    files = ["--histories", tmp_path / "histories", "--output", tmp_path / "out"]
    code, out, err = ask(*files)
    assert code == 0, err
    assert out.splitlines()[-1] == f"1,500 histories answered: {tmp_path / 'out'}"
    assert len((tmp_path / "out").read_text().splitlines()) == 1500
    code, _, err = ask(*files)
    assert (code, err) == (
        2,
        f"error: --output {tmp_path / 'out'} exists; delete it or name another file\n",
    )


def test_an_interrupt_is_one_line_and_leaves_no_empty_file(start, run, tmp_path):
    histories = tmp_path / "histories.txt"
    histories.write_text("u1 i3\n" * 200_000)
    process = start(
        "recommend.py", "--run-dir", run, "--histories", histories, "--output", tmp_path / "out"
    )
    while not list(tmp_path.glob(".out.*.partial")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    last = out.splitlines()[-1]
    assert re.fullmatch(r"stopped after [\d,]+ histories; the same command goes on", last)
    assert all(part.stat().st_size for part in tmp_path.glob(".out*"))


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
def test_mistakes_are_one_line(ask, tmp_path, monkeypatch, flags, named):
    monkeypatch.chdir(tmp_path)
    code, _, err = ask(*flags)
    assert code == 2
    assert named in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
