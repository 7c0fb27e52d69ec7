"""Which runs a suite has, how far each has come, and samples of users."""

import dataclasses
import json

import numpy as np
import pytest

from echojax.data import Preparation, load_dataset
from echojax.suites.runs import write_sample
from tests.conftest import refused, write_events
from tests.suites.conftest import SUITE, packed, write_run

TIMED = SUITE + '[global_time]\nvariants = ["popularity", "ours"]\ndatasets = ["ring"]\n'


@pytest.fixture
def state(make_suite):
    """Return a function that returns the state of sasrec's first run, with flags changed."""
    suite, runs, out = make_suite()

    def state(**change):
        results, _ = packed(suite, runs, out)
        config = dataclasses.replace(runs[1].config, **change)
        return results.state_of(dataclasses.replace(runs[1], config=config))

    state.run = runs[1]
    return state


def test_every_variant_has_its_seeds_and_a_heuristic_one_has_one(make_suite):
    _, runs, out = make_suite(TIMED)
    names = [run.name for run in runs]
    assert names[:5] == [
        "ring/popularity/seed-0",
        "ring/sasrec/seed-0",
        "ring/sasrec/seed-1",
        "ring/sasrec/seed-2",
        "ring/hstu/seed-0",
    ]
    assert names[-2:] == ["ring/popularity@global-time/seed-0", "ring/ours@global-time/seed-0"]
    assert len(names) == 1 + 5 * 3 + 2
    assert {run.config.split for run in runs[-2:]} == {"global-time"}
    assert {run.config.split for run in runs[:-2]} == {"leave-one-out"}
    for run in runs:
        assert run.folder == out / run.name
        assert (run.config.seed, run.config.run_dir) == (run.seed, str(run.folder))


def test_states(state):
    assert state() == "new"
    write_run(state.run, 2)
    assert state() == "finished"
    # A run that may be longer goes on; what alters no result alters no state.
    assert state(epochs=300) == state(patience=30) == "interrupted"
    assert state(eval_batch_size=3) == state(data_dir="/elsewhere") == "finished"
    # Of a finished run the best epoch may be one that the suite no longer allows.
    for name, value in {"epochs": 3, "patience": 3, "max_steps": 7}.items():
        with refused(f"and the suite says {value}; to run it anew, delete"):
            state(**{name: value})
    with refused("made with --d-model 8, and the suite says 16; to run it"):
        state(d_model=16)
    (state.run.folder / "results.json").unlink()
    assert state() == state(epochs=3) == "interrupted"
    with refused("made with --d-model 8, and the suite says 16; to run it"):
        state(d_model=16)


def test_a_finished_run_that_was_made_longer_is_not_cut_either(state):
    """Its config.json has the limits of its first start, its results those of the last."""
    run = state.run
    write_run(dataclasses.replace(run, config=dataclasses.replace(run.config, epochs=300)), 2)
    first = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps(first | {"epochs": run.config.epochs}))
    with refused("was made with --epochs 300, and the suite says 200"):
        state()


def test_a_run_from_before_a_flag_existed_counts_as_its_default(state):
    write_run(state.run, 2)
    for name in ("config.json", "results.json"):
        path = state.run.folder / name
        content = json.loads(path.read_text())
        del (content if name == "config.json" else content["config"])["glu"]
        path.write_text(json.dumps(content))
    assert state() == "finished"


def test_a_run_from_before_flags_had_their_names_counts(state):
    write_run(state.run, 2)
    path = state.run.folder / "config.json"
    content = json.loads(path.read_text())
    content["width"] = content.pop("d_model")
    path.write_text(json.dumps(content))
    assert state() == "finished"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a data folder that holds an "ml-100k" of 50 users."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng, rows = np.random.default_rng(0), []
    for user in range(50):
        times = np.sort(rng.integers(0, 90, rng.integers(6, 15))) + 880_000_000
        rows += [(f"u{user}", f"i{rng.integers(20)}", time) for time in times]
    write_events(tmp_path / "ml-100k.inter", rows)
    return tmp_path


def histories(dataset):
    spans = zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)
    return {
        user: (dataset.item_ids[dataset.items_T[a:b]].tolist(), dataset.times_T[a:b].tolist())
        for user, (a, b) in zip(dataset.user_ids.tolist(), spans, strict=True)
    }


def test_a_sample_has_whole_histories_of_the_same_users_every_time(folder, caplog):
    caplog.set_level("INFO")
    paths = [folder / "out" / name / "few.inter" for name in ("a", "b", "all")]
    for path, users in zip(paths, (12, 12, 999), strict=True):
        write_sample(path, "ml-100k", users, str(folder))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    whole = histories(load_dataset("ml-100k", data_dir=folder, preparation=Preparation(k_core=0)))
    few = histories(load_dataset(data_path=paths[0], preparation=Preparation(k_core=0)))
    assert len(few) == 12
    assert few == {user: whole[user] for user in few}
    assert "12 users of ml-100k" in caplog.text
    # A sample larger than the data is the data.
    assert len(histories(load_dataset(data_path=paths[2], preparation=Preparation(k_core=0)))) == 50
    paths[0].write_text("mine")  # it is drawn once
    write_sample(paths[0], "ml-100k", 12, str(folder))
    assert paths[0].read_text() == "mine"


def test_data_without_times_stay_so_and_unknown_data_are_refused(tmp_path):
    path = tmp_path / "few.inter"
    write_sample(path, "synthetic", 20, None)
    assert (
        load_dataset(data_path=path, preparation=Preparation(k_core=0)).fingerprint["time"]
        == "position"
    )
    with refused("unknown"):
        write_sample(tmp_path / "x.inter", "ml", 20, None)
    assert not (tmp_path / "x.inter").exists()
