"""Samples of users: the same every time, whole histories."""

import numpy as np
import pytest

from echojax.data import load_dataset
from echojax.errors import UserError
from echojax.reproduction.samples import write_sample
from echojax.reproduction.suite import Data


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a data folder that holds an "ml-100k" of 50 users."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(50):
        times = np.sort(rng.integers(0, 90, rng.integers(6, 15))) + 880_000_000
        lines += [f"u{user}\ti{rng.integers(20)}\t{time}" for time in times]
    (tmp_path / "ml-100k.inter").write_text("\n".join(lines) + "\n")
    return tmp_path


def histories(dataset):
    spans = zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)
    return {
        user: (dataset.item_ids[dataset.items_T[a:b]].tolist(), dataset.times_T[a:b].tolist())
        for user, (a, b) in zip(dataset.user_ids.tolist(), spans, strict=True)
    }


def test_whole_histories_of_the_same_users_every_time(folder):
    data, said = Data("few", {"dataset": "ml-100k"}, 12), []
    paths = [folder / "out" / name / "few.inter" for name in ("a", "b")]
    for path in paths:
        write_sample(path, data, str(folder), said.append)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    whole = histories(load_dataset("ml-100k", data_dir=folder, k_core=0))
    few = histories(load_dataset(data_path=paths[0], k_core=0))
    assert len(few) == 12
    assert few == {user: whole[user] for user in few}
    assert "12 users of ml-100k" in said[-1]


def test_it_is_drawn_once(folder):
    path = folder / "few.inter"
    path.write_text("mine")
    write_sample(path, Data("few", {"dataset": "ml-100k"}, 12), str(folder), print)
    assert path.read_text() == "mine"


def test_a_sample_larger_than_the_data_is_the_data(folder):
    path = folder / "all.inter"
    write_sample(path, Data("all", {"dataset": "ml-100k"}, 999), str(folder), lambda line: None)
    assert len(histories(load_dataset(data_path=path, k_core=0))) == 50


def test_data_without_times_stay_so(tmp_path):
    path = tmp_path / "few.inter"
    write_sample(path, Data("few", {"dataset": "synthetic"}, 20), None, lambda line: None)
    assert load_dataset(data_path=path, k_core=0).fingerprint["time"] == "position"


def test_an_unknown_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="unknown"):
        write_sample(tmp_path / "x.inter", Data("x", {"dataset": "ml"}, 20), None, print)
    assert not (tmp_path / "x.inter").exists()
