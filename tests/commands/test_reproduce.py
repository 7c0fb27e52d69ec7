"""A suite of small trainings: what it leaves, how it goes on, what it refuses."""

import json
import os
import re
import shutil
import signal

import pytest

from echojax.suites.results import Results
from tests.commands.conftest import wait_until
from tests.conftest import write_events
from tests.suites.conftest import make

SUITE = """
title = "A ring"
seeds = [0, 1]
reference = "gru4rec"

[flags]
max_len = 8
batch_size = 16
learning_rate = 0.01
epochs = 4
k_core = 2

[datasets.ring]
data_path = "DATA"

[variants.popularity]
model = "popularity"

[variants.gru4rec]
model = "gru4rec"
d_model = 8
hidden_size = 8

[global_time]
datasets = ["ring"]
variants = ["popularity"]
"""
RUNS = [
    "ring/popularity/seed-0",
    "ring/gru4rec/seed-0",
    "ring/gru4rec/seed-1",
    "ring/popularity@global-time/seed-0",
]


@pytest.fixture(scope="module")
def suite_file(data_file, tmp_path_factory):
    """Return the file of a suite of four small runs, on a ring that a global split can cut."""
    folder = tmp_path_factory.mktemp("suite")
    rows = [line.split("\t") for line in data_file.read_text().splitlines()[1:]]
    shifted = ((user, item, 1000 + 7 * int(t) + int(user[1:])) for user, item, t in rows)
    path = folder / "ring.toml"
    path.write_text(SUITE.replace("DATA", str(write_events(folder / "ring.inter", shifted))))
    return path


@pytest.fixture(scope="module")
def made(suite_file, tmp_path_factory):
    """Return the folder of a suite that ended undisturbed."""
    out = tmp_path_factory.mktemp("out") / "ring"
    assert make(suite_file, out)
    return out


@pytest.fixture
def copy(made, tmp_path):
    """Return a function that copies the suite without some runs and without packed results."""

    def copy(*without):
        out = tmp_path / "ring"
        shutil.copytree(made, out)
        for name in without:
            shutil.rmtree(out / name)
        (out / "runs.parquet").unlink()
        return out

    return copy


def stamps(out):
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*.json")}


def scores(out, name):
    return json.loads((out / name / "results.json").read_text())["test"]


def rows_of(out, title):
    """Return the names in a table of the page."""
    page = (out / "page.html").read_text()
    after = page[page.index(f"<h3>{title}</h3>") :]
    after = after[after.index("<tbody>") :]
    return re.findall(
        r"<tr[^>]*>\s*<th[^>]*>([^<]*?)(?: <span.*?)?</th>", after[: after.index("</table")]
    )


def test_it_makes_every_run_and_the_page(made, suite_file, tmp_path):
    assert all((made / name / "results.json").exists() for name in RUNS)
    assert not list(made.glob("ring/*/seed-2"))
    assert not (made / "ring/popularity/seed-1").exists()
    assert rows_of(made, "Scores") == ["popularity", "gru4rec", "markov", "lagged-count"]
    for title in ("Scores with seen items filtered", "The same models under other protocols"):
        assert rows_of(made, title) == ["popularity", "gru4rec"]
    page = (made / "page.html").read_text()
    for split in ("leave-one-out", "global-time"):
        for ranking in ("full, seen items kept", "full, seen items filtered"):
            assert f"<th>{split}, {ranking}</th>" in page
        assert f"<th>{split}, 100 sampled, uniform</th>" in page
    assert "runs are missing" not in page
    assert rows_of(made, "Order of events")[0] == "tied events"
    # The page is made of the packed results alone, wherever they are.
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("runs.parquet", "ranks.parquet", "order.json"):
        shutil.copy(made / name, kept)
    assert make(suite_file, kept, report_only=True)
    assert (kept / "page.html").read_text() == page


def test_a_run_is_the_same_as_train_would_make_it(made, works, tmp_path):
    commands = re.findall(r"# gru4rec\nechojax train (.*)", (made / "page.md").read_text())
    works("train", *commands[0].split(), "--run-dir", tmp_path / "run")
    assert scores(made, RUNS[1]) == scores(tmp_path, "run")


@pytest.mark.slow
def test_interrupted_it_leaves_a_page_and_goes_on(start, suite_file, made, copy):
    out = copy(*RUNS[2:4])
    process = start("reproduce", "--suite", suite_file, "--out", out)
    log = out / RUNS[2] / "metrics.jsonl"
    wait_until(lambda: log.exists() and log.read_text(), process)  # the second seed's first epoch
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"[3/4] {RUNS[2]}: echojax train" in printed
    assert f"page: {out / 'page.html'}" in printed
    assert "the same command goes on" in printed
    assert "Traceback" not in err
    assert "not finished" in (out / "page.html").read_text()
    kept = stamps(out)
    assert f"{RUNS[1]}/results.json" in kept
    assert f"{RUNS[2]}/results.json" not in kept
    assert make(suite_file, out)
    after = stamps(out)
    assert all(after[name] == kept[name] for name in kept if name.endswith("results.json"))
    for name in RUNS:
        assert scores(out, name) == scores(made, name)
    assert "not finished" not in (out / "page.html").read_text()


def test_a_signal_before_training_stops_it_too(call, suite_file, tmp_path, monkeypatch):
    out, write = tmp_path / "ring", Results.write

    def signalled(self):
        monkeypatch.setattr(Results, "write", write)
        write(self)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Results, "write", signalled)
    code, _, err = call("reproduce", "--suite", suite_file, "--out", out)
    assert code == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    assert "runs are missing" in (out / "page.html").read_text()


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_go_on(suite_file, copy, tmp_path, caplog, capfd):
    caplog.set_level("INFO")
    out, path = copy(RUNS[3]), tmp_path / "ring.toml"  # it comes after the broken ones
    broken = '[variants.broken]\nmodel = "gru4rec"\nd_model = 4\nlearning_rate = 1e30\n\n'
    path.write_text(suite_file.read_text().replace("[global_time]", f"{broken}[global_time]"))
    assert not make(path, out)
    assert "Traceback" not in capfd.readouterr().err
    page = (out / "page.html").read_text()
    for seed in (0, 1):
        assert f"failed: ring/broken/seed-{seed}: the loss of step" in caplog.text
        assert f"ring/broken/seed-{seed} failed: the loss of step" in page
    assert (out / RUNS[3] / "results.json").exists()
    assert rows_of(out, "Scores") == ["popularity", "gru4rec", "broken", "markov", "lagged-count"]
    # With the variant taken out of the suite, nothing is amiss any more.
    assert make(suite_file, out)
    assert "failed" not in (out / "page.html").read_text()
