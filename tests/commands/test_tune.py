"""The command tune: small searches with real trainings, killed, shared, and used."""

import dataclasses
import json
import signal
import sys
import tomllib

import jax.numpy as jnp
import pytest

from echojax.commands.tune import given_flags
from echojax.config import Config
from echojax.training import loop
from tests.commands.conftest import wait_until
from tests.conftest import only_line

SEARCH = [
    "--model", "gru4rec", "--d-model", "8", "--hidden-size", "8", "--max-len", "8", "--k-core", "2",
    "--batch-size", "64", "--epochs", "4", "--generation", "2", "--dropout", "0.1",
]  # fmt: skip


def trials_of(folder):
    return tomllib.loads((folder / "best.toml").read_text())["gru4rec"]["tried"]


@pytest.fixture(scope="module")
def searched(works, data_file, tmp_path_factory):
    """Return the folder of a search that ended undisturbed, and what it printed."""
    out = tmp_path_factory.mktemp("searched") / "study"
    words = ["--data-path", data_file, *SEARCH, "--trials", 4, "--out", out]
    return out, works("tune", *words)


def test_a_search_and_what_comes_of_it(searched, works, data_file, tmp_path):
    out, printed = searched
    assert f"page: {out / 'page.html'}" in printed
    assert "best so far" in printed
    assert len(trials_of(out)) == 4
    folders = sorted(path.name for path in out.glob("generation-*/trial-*"))
    assert folders == ["trial-0", "trial-1", "trial-2", "trial-3"]
    assert not list(out.glob("*/*/results.json"))  # nobody looked at the test set
    train = ["--data-path", data_file, "--model", "gru4rec", "--k-core", "2"]
    run = tmp_path / "run"
    works("train", *train, "--recipe", out / "best.toml", "--run-dir", run)
    config = json.loads((run / "config.json").read_text())
    assert (config["d_model"], config["epochs"], config["dropout"]) == (8, 4, 0.1)
    best = max(one["score"] for one in trials_of(out))
    results = json.loads((run / "results.json").read_text())
    assert results["valid"]["ndcg@10"] == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--weight-decay", "0", "--learning-rate", "0.1"], "nothing to search; leave one of "),
        (["--space", "none.toml"], "--space none.toml: no such file"),
        (["--resume"], "--resume has no place in a search; the same command goes on anyway"),
        (["--trails", "3"], "--trails"),
    ],
)
def test_mistakes_are_one_line(words, says, mistake, data_file, tmp_path):
    out = ["--out", tmp_path / "study"]
    assert says in mistake("tune", "--data-path", data_file, *SEARCH, *words, *out)
    assert not (tmp_path / "study").exists()


def test_too_little_memory_is_what_a_trial_failed_of(call, data_file, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "compile_step", lambda *_: jnp.zeros((2**22, 2**22)))
    words = ["--data-path", data_file, *SEARCH, "--trials", 2, "--out", tmp_path / "study"]
    code, out, err = call("tune", *words)
    assert code == 2
    assert "trial 0: failed, out of memory on a device" in out
    says = "error: all 2 trials failed, the last: out of memory on a device (RESOU"
    assert only_line(err).startswith(says)


def test_only_flags_that_are_given_are_not_searched():
    line = "--d-model=8 --no-filter --out dropout --run_dir x -h weight-decay"
    found = given_flags(line.split()) & {field.name for field in dataclasses.fields(Config)}
    assert found == {"d_model", "filter", "run_dir"}


def test_without_optuna(mistake, data_file, monkeypatch):
    for name in [one for one in sys.modules if one.startswith("echojax.tuning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    line = mistake("tune", "--data-path", data_file, *SEARCH)
    assert line == "error: optuna is missing: pip install 'echojax[tune]'"


@pytest.mark.slow
def test_killed_twice_it_finds_the_same(start, command, data_file, tmp_path):
    words = ["--data-path", data_file, *SEARCH, "--trials", 8, "--generation", 4]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, _, err = command("tune", *words, "--out", whole)
    assert code == 0, err
    for generation, sent in ((0, signal.SIGKILL), (1, signal.SIGTERM)):
        process = start("tune", *words, "--out", killed)
        log = killed / f"generation-{generation}" / f"trial-{4 * generation}" / "metrics.jsonl"
        wait_until(lambda log=log: log.exists() and log.read_text(), process)  # its first epoch
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (-sent, 128 + sent), err
        assert "Traceback" not in err
    code, _, err = command("tune", *words, "--out", killed)
    assert code == 0, err
    assert trials_of(killed) == trials_of(whole)
    assert len(trials_of(whole)) == 8


@pytest.mark.slow
def test_two_processes_share_a_study(start, data_file, tmp_path):
    out = tmp_path / "study"
    words = ["--data-path", data_file, *SEARCH, "--trials", 8, "--out", out]
    processes = [start("tune", *words) for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
    assert len(trials_of(out)) == 8
    assert len(list(out.glob("generation-*/trial-*"))) == 8
