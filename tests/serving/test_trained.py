"""What is read of a run: titles, its own before the data's; and models that cannot be served."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from echojax import Recommender
from echojax.config import Config
from echojax.errors import UserError
from echojax.models import HEURISTICS
from echojax.serving import trained
from echojax.serving.trained import read_trained, run_titles
from echojax.training import evaluate
from echojax.training.evaluate import evaluate_run
from echojax.training.run_folder import read_items, read_own_config


def test_a_run_keeps_the_titles_of_its_data(ring_run):
    item_ids_V, titles = read_items(ring_run)
    assert titles == {f"i{n}": f"Stop {n} ({1990 + n})" for n in range(30)}
    assert set(titles) == set(item_ids_V[1:])
    elsewhere = Config(dataset="ml-100k", data_dir="nowhere")
    assert run_titles(titles, elsewhere) == titles


def test_titles_and_ids_that_cannot_be_right_are_damage(ring_run, tmp_path):
    items = json.loads((ring_run / "items.json").read_text())
    ids, titles = items["item_ids"], items["titles"]
    for damage in (
        *({"titles": wrong} for wrong in (titles[1:], "Stop", [*titles[1:], 7])),
        {"titles": ["\ud83d", *titles[1:]]},
        *({"item_ids": [*ids[:-1], wrong]} for wrong in (ids[1], "\udfff")),
        {"item_ids": ["i99", *ids[1:]]},
    ):
        (tmp_path / "items.json").write_text(json.dumps(items | damage))
        with pytest.raises(UserError, match=r"items\.json cannot be used"):
            read_items(tmp_path)


@pytest.mark.parametrize(("name", "lines"), [("ml-1m", 1), ("amazon-beauty", 0)])
def test_a_titled_data_set_without_titles_is_said(tmp_path, monkeypatch, caplog, name, lines):
    monkeypatch.delenv("ECHOJAX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caplog.set_level("INFO")
    assert run_titles({}, Config(dataset=name)) == {}
    assert [line.split(";")[0] for line in caplog.messages] == ["titles not found"] * lines


def test_runs_without_titles_read_those_of_the_data(data_file):
    found = run_titles({}, Config(), data_path=str(data_file))
    assert found["i6"] == "Stop 6 (1996)"


@pytest.mark.parametrize("place", ["data_dir", "data_path"])
def test_data_that_is_not_where_it_is_said_to_be(ring_run, place):
    with pytest.raises(UserError, match=f"--{place.replace('_', '-')} /nowhere/x is no f"):
        Recommender.load(ring_run, **{place: "/nowhere/x"})


def test_a_run_whose_scan_cannot_run_here_is_served_and_evaluated(ring_run, monkeypatch):
    here = Recommender.load(ring_run).score(["i1"], ["i2"])
    known = json.loads((ring_run / "results.json").read_text())["test"]
    config = dataclasses.replace(read_own_config(ring_run), scan="pallas_tpu")
    monkeypatch.setattr(trained, "read_config", lambda _: config)
    monkeypatch.setattr(evaluate, "read_own_config", lambda _: config)
    np.testing.assert_allclose(Recommender.load(ring_run).score(["i1"], ["i2"]), here, rtol=1e-4)
    found = evaluate_run(ring_run, "test", metrics=["hr"])
    assert found["hr@10"] == pytest.approx(known["hr@10"], abs=0.05)


def test_no_run(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_trained(tmp_path / "nothing")
    with pytest.raises(UserError, match="is a file; name the run folder"):
        read_trained(Path(__file__))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *(
            ({"model": name}, f"holds a run of {name}, which counts and keeps no model")
            for name in HEURISTICS
        ),
        ({"seeds": 2}, "2 seeds; name one"),
        ({"model": "plug-in"}, "unknown --model 'plug-in'"),
    ],
)
def test_runs_without_one_known_model_are_refused(ring_run, tmp_path, change, words):
    config = json.loads((ring_run / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=words):
        Recommender.load(tmp_path)


@pytest.mark.parametrize("count", [0, 30, 32])
def test_item_ids_that_do_not_fit_the_model_are_damage(ring_run, tmp_path, count):
    shutil.copytree(ring_run, tmp_path / "run")
    items = json.loads((ring_run / "items.json").read_bytes())
    items["item_ids"] = [*items["item_ids"], "i99"][:count]
    del items["titles"]
    (tmp_path / "run/items.json").write_text(json.dumps(items))
    with pytest.raises(UserError, match=f"items.json has {count} 'item_ids', and the model 31;"):
        read_trained(tmp_path / "run")


def test_parameters_that_are_not_finite_are_refused(ring_run, monkeypatch):
    load = trained.load_checkpoint

    def with_nan(*args, **options):
        found = load(*args, **options)
        scale = found.params["norm"]["scale"]
        scale.set_value(np.full_like(np.asarray(scale[...]), np.nan))
        return found

    monkeypatch.setattr(trained, "load_checkpoint", with_nan)
    with pytest.raises(
        UserError, match=r"step \d+ in .* has NaN or infinite .* norm\.scale; train"
    ):
        read_trained(ring_run)


def test_the_served_step_is_known(ring_run):
    step = json.loads((ring_run / "results.json").read_text())["train"]["best_step"]
    assert Recommender.load(ring_run).step == step
    found = read_trained(ring_run)
    assert (found.step, found.best_step) == (step, step)
