"""Titles: from the run folder first, then from the data, and a line where a titled set has none."""

import json
import shutil

import pytest

from echojax import Recommender
from echojax.config import Config
from echojax.errors import UserError
from echojax.serving.titles import run_titles
from echojax.training.run_folder import read_items


def test_a_run_keeps_the_titles_of_its_data(ring_run):
    item_ids_V, titles = read_items(ring_run)
    assert titles == {f"i{n}": f"Stop {n} ({1990 + n})" for n in range(30)}
    assert set(titles) == set(item_ids_V[1:])
    elsewhere = Config(dataset="ml-100k", data_dir="nowhere")
    assert run_titles(titles, elsewhere) == titles


def test_titles_that_do_not_fit_the_items_are_damage(ring_run, tmp_path):
    items = json.loads((ring_run / "items.json").read_text())
    for titles in (items["titles"][1:], "Stop", [*items["titles"][1:], 7]):
        (tmp_path / "items.json").write_text(json.dumps(items | {"titles": titles}))
        with pytest.raises(UserError, match=r"items\.json is damaged"):
            read_items(tmp_path)


@pytest.mark.parametrize(("name", "lines"), [("ml-1m", 1), ("amazon-beauty", 0)])
def test_a_titled_data_set_without_titles_is_said(tmp_path, monkeypatch, name, lines):
    monkeypatch.delenv("ECHOJAX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = []
    assert run_titles({}, Config(dataset=name), say=said.append) == {}
    assert [line.split(";")[0] for line in said] == ["titles not found"] * lines


def test_runs_without_titles_read_those_of_the_data(ring_run, tmp_path):
    shutil.copy(ring_run.parent / "ring.item", tmp_path)
    found = run_titles({}, Config(), data_path=str(tmp_path / "ring.inter"))
    assert found["i6"] == "Stop 6 (1996)"


@pytest.mark.parametrize("place", ["data_dir", "data_path"])
def test_data_that_is_not_where_it_is_said_to_be(ring_run, place):
    with pytest.raises(UserError, match=f"--{place.replace('_', '-')} /nowhere/x is no f"):
        Recommender.load(ring_run, **{place: "/nowhere/x"})
