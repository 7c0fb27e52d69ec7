"""Suites whose learned variants are searched before their runs: ``reproduce --tune``."""

import json
import re
import shutil
import signal

import pytest

from echojax.signals import Interrupted
from tests.conftest import refused
from tests.suites.conftest import make
from tests.tuning.stand_in import stand_in_for_training

SUITE = """
title = "Tuned"
reference = "gru4rec"
[flags]
max_len = 8
batch_size = 16
epochs = 2
dropout = 0.1
[datasets.ring]
data_path = "DATA"
k_core = 2
[variants.popularity]
model = "popularity"
[variants.gru4rec]
model = "gru4rec"
d_model = 8
hidden_size = 8
"""


@pytest.fixture(scope="module")
def members():
    with stand_in_for_training() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def suite(data_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("tuned") / "ring.toml"
    path.write_text(SUITE.replace("DATA", str(data_file)))
    return path


@pytest.fixture(scope="module")
def made(suite, members):
    """Return the folder of a suite whose first search was interrupted."""
    out = suite.parent / "out"

    def kill():
        raise Interrupted("stopped", signal.SIGTERM)

    members.raised = {2: kill}
    with pytest.raises(Interrupted, match="the same command goes on"):
        make(suite, out, tune=6)
    assert not (out / "ring" / "gru4rec").exists()
    assert make(suite, out, tune=6)
    return out


def results_of(out, variant):
    return json.loads((out / "ring" / variant / "seed-0" / "results.json").read_text())


def test_a_row_is_made_with_what_its_search_found(made):
    results = results_of(made, "gru4rec")
    tuning, config = results["tuning"], results["config"]
    assert (tuning["trials"], len(tuning["tried"])) == (6, 6)
    assert tuning["found"].keys() == tuning["space"].keys() == {"learning_rate", "weight_decay"}
    assert tuning["found"] == {name: config[name] for name in tuning["found"]}
    assert config["dropout"] == 0.1  # as the suite says
    assert (made / "tuning" / "ring" / "gru4rec" / "best.toml").exists()
    assert "tuning" not in results_of(made, "popularity")
    page = (made / "page.md").read_text()
    assert "echojax reproduce --suite" in page
    assert "--tune 6" in page
    assert re.search(r"\| gru4rec .*\| 6 trials learning rate: ", page), page
    assert f"--learning-rate {config['learning_rate']}" in page


def test_the_same_command_finds_all_done(made, suite, members, tmp_path):
    before, page = members.calls, (made / "page.html").read_text()
    assert make(suite, made, tune=6)
    assert make(suite, made, tune=6, report_only=True)
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("runs.parquet", "ranks.parquet"):
        shutil.copy(made / name, kept)
    assert make(suite, kept, tune=6)
    assert (kept / "page.html").read_text() == page
    assert make(suite, kept, report_only=True)
    assert members.calls == before


def test_another_budget_is_refused(made, suite):
    for tune in (None, 7):
        with refused("made with --tune 6; give that, or name another --out"):
            make(suite, made, tune=tune)


def test_what_cannot_be_searched(made, suite, members, tmp_path, caplog):
    caplog.set_level("INFO")
    text = suite.read_text()
    fixed = "dropout = 0.1\nlearning_rate = 0.01\nweight_decay = 0.1"
    bad = tmp_path / "bad.toml"
    bad.write_text(text.replace("dropout = 0.1", fixed))
    with refused("bad.toml, variant gru4rec on ring: ", "nothing to search"):
        make(bad, tmp_path / "fixed", tune=2)
    # A search that fails leaves the other variants.
    bad.write_text(text)
    members.calls, members.raised = 0, {1: _fail}
    assert not make(bad, tmp_path / "failed", tune=2)
    assert "failed: ring/gru4rec/seed-0: its search: RuntimeError: it is odd" in caplog.text
    assert results_of(tmp_path / "failed", "popularity")
    assert not (tmp_path / "failed" / "ring" / "gru4rec" / "seed-0").exists()


def _fail():
    raise RuntimeError("it is odd")
