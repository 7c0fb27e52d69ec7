"""A suite from the command line: what it leaves, how it goes on, what it refuses."""

import json
import re
import shutil
import signal
import time

import pytest

from tests.commands.test_bad_input import only_line

SUITE = """
title = "A ring"
seeds = [0, 1]
reference = "sasrec"

[flags]
max_len = 8
batch_size = 16
learning_rate = 0.01
epochs = 4
k_core = 2

[datasets.ring]
data_path = "DATA"

[rows.popularity]
model = "popularity"

[rows.sasrec]
model = "sasrec"
d_model = 8
layers = 1

[global_time]
datasets = ["ring"]
rows = ["popularity", "sasrec"]
"""
CELLS = [
    "ring/popularity/seed-0", "ring/sasrec/seed-0", "ring/sasrec/seed-1",
    "ring/popularity@global-time/seed-0", "ring/sasrec@global-time/seed-0",
]  # fmt: skip


@pytest.fixture(scope="module")
def timed_file(data_file, tmp_path_factory):
    """Return the ring with times that a global split can cut."""
    header, *lines = data_file.read_text().splitlines()
    fields = [line.split("\t") for line in lines]
    shifted = [f"{user}\t{item}\t{1000 + 7 * int(t) + int(user[1:])}" for user, item, t in fields]
    path = tmp_path_factory.mktemp("timed") / "ring.inter"
    path.write_text("\n".join([header, *shifted]) + "\n")
    return path


@pytest.fixture(scope="module")
def suite_file(timed_file, tmp_path_factory):
    """Return the file of a suite of five small runs."""
    path = tmp_path_factory.mktemp("suite") / "ring.toml"
    path.write_text(SUITE.replace("DATA", str(timed_file)))
    return path


@pytest.fixture(scope="module")
def made(command, suite_file, tmp_path_factory):
    """Return the folder of a suite that ended undisturbed and what it printed."""
    out = tmp_path_factory.mktemp("out") / "ring"
    code, printed, err = command("reproduce.py", "--suite", suite_file, "--out", out)
    assert code == 0, err
    return out, printed


def results(out):
    return {cell: out / cell / "results.json" for cell in CELLS}


def stamps(out):
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for path in out.rglob("*.json")
        if path.name != "suite.json"
    }


def rows_of(page, title):
    """Return the names in a table of the page."""
    after = page[page.index(f"<h3>{title}</h3>") :]
    after = after[after.index("<tbody>") :]
    return re.findall(r"<tr[^>]*><th>([^<]*?)(?: <span.*?)?</th>", after[: after.index("</table")])


def test_it_makes_every_run_and_the_page(made):
    out, printed = made
    assert all(path.exists() for path in results(out).values())
    assert not list(out.glob("ring/*/seed-2"))
    assert not (out / "ring/popularity/seed-1").exists()
    page = (out / "page.html").read_text()
    assert rows_of(page, "Scores") == ["popularity", "sasrec", "markov"]
    for title in ("Scores with seen items out", "The same models under other protocols"):
        assert rows_of(page, title) == ["popularity", "sasrec"]
    for split in ("leave-one-out", "global-time"):
        for ranking in ("full, seen items in", "full, seen items out", "100 sampled, uniform"):
            assert f"<th>{split}, {ranking}</th>" in page
    assert "missing" not in page
    assert "[5/5] ring/sasrec@global-time/seed-0" in printed
    assert f"page: {out / 'page.html'}" in printed


def test_a_row_is_the_same_as_train_would_make_it(made, command, tmp_path):
    out, printed = made
    shown = re.search(r"ring/sasrec/seed-1: python experiments/train.py (.*)", printed)
    code, _, err = command("train.py", *shown.group(1).split(), "--run-dir", tmp_path / "run")
    assert code == 0, err
    ours, theirs = (
        json.loads((folder / "results.json").read_text())
        for folder in (out / "ring/sasrec/seed-1", tmp_path / "run")
    )
    assert ours["test"] == theirs["test"]


def test_what_is_finished_is_left_alone(made, command, suite_file):
    out, _ = made
    before = stamps(out)
    code, printed, err = command("reproduce.py", "--suite", suite_file, "--out", out)
    assert code == 0, err
    assert "5 runs, 5 of them finished" in printed
    assert "compiling" not in printed
    assert stamps(out) == before


def test_interrupted_it_leaves_a_page_and_goes_on(start, command, suite_file, made, tmp_path):
    out = tmp_path / "ring"
    shutil.copytree(made[0], out)
    for cell in CELLS[2:4]:
        shutil.rmtree(out / cell)
    args = ["reproduce.py", "--suite", suite_file, "--out", out]
    process = start(*args)
    log, deadline = out / CELLS[2] / "metrics.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_text()):  # the second seed has made its first epoch
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command goes on" in printed
    assert "Traceback" not in err
    page = (out / "page.html").read_text()
    assert "not finished" in page
    kept = stamps(out)
    assert f"{CELLS[1]}/results.json" in kept
    assert f"{CELLS[2]}/results.json" not in kept
    code, printed, err = command(*args)
    assert code == 0, err
    after = stamps(out)
    assert all(after[name] == kept[name] for name in kept if name.endswith("results.json"))
    for cell, path in results(out).items():
        ours, theirs = (json.loads(p.read_text()) for p in (path, results(made[0])[cell]))
        assert ours["test"] == theirs["test"], cell
    assert "not finished" not in (out / "page.html").read_text()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training_stops_it_too(kind, start, suite_file, tmp_path):
    out = tmp_path / "ring"
    process = start("reproduce.py", "--suite", suite_file, "--out", out)
    deadline = time.monotonic() + 120
    while not (out / "suite.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(kind)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + kind, err
    assert "Traceback" not in err
    assert "runs are missing" in (out / "page.html").read_text()


def test_a_run_that_fails_is_named_and_the_others_go_on(command, suite_file, made, tmp_path):
    out, path = tmp_path / "ring", tmp_path / "ring.toml"
    row = '[rows.broken]\nmodel = "sasrec"\nwidth = 4\nlearning_rate = 1e30\n\n[global_time]'
    path.write_text(suite_file.read_text().replace("[global_time]", row))
    shutil.copytree(made[0], out)
    shutil.rmtree(out / CELLS[3])  # comes behind the broken ones
    code, printed, err = command("reproduce.py", "--suite", path, "--out", out)
    assert code == 1, err
    assert "Traceback" not in err
    page = (out / "page.html").read_text()
    for seed in (0, 1):
        assert f"failed: ring/broken/seed-{seed}: the loss of step" in printed
        assert f"ring/broken/seed-{seed} failed: the loss of step" in page
    assert results(out)[CELLS[3]].exists()
    assert rows_of(page, "Scores") == ["popularity", "sasrec", "broken", "markov"]
    # The row taken out of the suite, nothing is amiss any more.
    code, _, err = command("reproduce.py", "--suite", suite_file, "--out", out)
    assert code == 0, err
    assert "failed" not in (out / "page.html").read_text()


def test_only_some_rows(command, suite_file, tmp_path):
    out = tmp_path / "ring"
    args = ["reproduce.py", "--suite", suite_file, "--out", out]
    code, printed, err = command(*args, "--only", "popularity")
    assert code == 0, err
    assert "2 runs, 0 of them finished" in printed
    assert {path.parent.parent.name for path in out.rglob("results.json")} == {
        "popularity", "popularity@global-time",
    }  # fmt: skip
    assert "3 runs are missing" in (out / "page.html").read_text()


def test_the_page_alone(made, command, suite_file, tmp_path):
    out = tmp_path / "moved"
    shutil.copytree(made[0], out)
    before = stamps(out)
    (out / "page.html").unlink()
    code, _, err = command("reproduce.py", "--suite", suite_file, "--out", out,
                                 "--report-only")  # fmt: skip
    assert code == 0, err
    assert (out / "page.html").read_bytes() == (made[0] / "page.html").read_bytes()
    assert stamps(out) == before


@pytest.mark.parametrize(
    ("change", "flags", "says"),
    [
        (("d_model = 8", "d_modle = 8"), [], "[rows.sasrec]: unknown flag 'd_modle'; did you mean"),
        (("", ""), ["--outt", "x"], "--outt"),
        (("", ""), ["--suite", "ml-10k"], "did you mean 'ml-100k'"),
    ],
    ids=["unknown flag in the file", "unknown flag", "unknown suite"],
)
def test_bad_input_is_one_line(change, flags, says, command, suite_file, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(suite_file.read_text().replace(*change, 1))
    code, _, err = command("reproduce.py", "--suite", path, *flags, cwd=tmp_path)
    assert code == 2, err
    assert says in only_line(err)
    assert {one.name for one in tmp_path.iterdir()} == {"mine.toml"}
