"""The run folder: whose it is, what it may hold before, and what is read back from it."""

import os
from dataclasses import replace

import numpy as np
import pytest

from echojax.config import Config, as_dict
from echojax.data import Dataset
from echojax.errors import UserError
from echojax.files import write_json
from echojax.training.builders import resolved
from echojax.training.run_folder import (
    create_or_resume_run_dir,
    fill_folders,
    read_config,
    read_own_config,
)

DATASET = Dataset(
    name="x", items_T=np.ones(1, np.int32), times_T=np.zeros(1), offsets=np.array([0, 1]),
    user_ids=np.array(["u"]), item_ids=np.array(["", "i"]), fingerprint={"sha256": "0"},
)  # fmt: skip


def start(config, folder):
    """Make the folder of a run in it."""
    with create_or_resume_run_dir(replace(config, run_dir=str(folder))) as path:
        fill_folders({path: config}, DATASET)
    return path


def test_what_the_user_names_is_filled_and_not_renamed_over(tmp_path, monkeypatch):
    """A container's volume or an empty disk, the folder at hand, a link to a folder."""
    volume, here, target = (tmp_path / name for name in ("volume", "here", "target"))
    for folder in (volume, here, target):
        folder.mkdir()
    (volume / "lost+found").mkdir()
    (tmp_path / "link").symlink_to(target)
    monkeypatch.chdir(here)
    for name, folder in ((volume, volume), (".", here), (tmp_path / "link", target)):
        before = folder.stat().st_ino
        start(Config(), name)
        assert read_config(folder) == Config()
        assert folder.stat().st_ino == before
        assert not (folder / ".lock").exists()
    assert (tmp_path / "link").is_symlink()


def test_a_start_that_was_killed_leaves_no_run_behind(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("items.json", ".config.json.x1", ".lock"):
        (folder / name).write_text("{")
    start(Config(), folder)
    assert read_config(folder) == Config()


def test_a_new_folder_is_taken_back_where_nothing_came_of_it(tmp_path):
    def fails(folder):
        with create_or_resume_run_dir(Config(run_dir=str(folder))):
            raise UserError("no data")

    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with pytest.raises(UserError, match="no data"):
            fails(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_relative_paths_of_data_are_kept_as_absolute_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start(Config(data_path="part-*.csv", data_dir="data"), tmp_path / "run")
    kept = read_config(tmp_path / "run")
    assert (kept.data_path, kept.data_dir) == (str(tmp_path / "part-*.csv"), str(tmp_path / "data"))


def test_a_taken_folder_is_refused(tmp_path):
    start(Config(), tmp_path / "run")
    with pytest.raises(UserError, match="exists; add --resume to go on, or name another"):
        start(Config(), tmp_path / "run")
    with pytest.raises(UserError, match="was made with --seed 0, not 1; leave --seed out"):
        start(Config(seed=1, resume=True), tmp_path / "run")
    with pytest.raises(UserError, match="was made with --odd None, not 2; leave --odd out"):
        start(Config(model_options={"odd": 2}, resume=True), tmp_path / "run")
    with pytest.raises(UserError, match=r"with --items-path None, not films\.csv; leave --items"):
        start(Config(items_path="films.csv", resume=True), tmp_path / "run")
    start(Config(resume=True, epochs=3, microbatch=4), tmp_path / "run")
    assert replace(read_config(tmp_path / "run"), resume=False) == Config(epochs=3, microbatch=4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    with pytest.raises(UserError, match=r"has files but no config\.json of a run"):
        start(Config(resume=True), tmp_path / "mine")


def test_a_seeds_folder_is_that_of_its_seed(tmp_path):
    start(Config(), tmp_path / "seed-0")
    start(Config(seed=1), tmp_path / "seed-1")
    (tmp_path / "seed-1").rename(tmp_path / "seed-2")
    with pytest.raises(UserError, match="seed-2 was made with --seed 1, not 2"):
        fill_folders({tmp_path / "seed-0": Config(), tmp_path / "seed-2": Config(seed=2)}, DATASET)


@pytest.mark.parametrize(("name", "says"), [("/proc/echojax", "/proc"), (300 * "x", "too long")])
def test_a_folder_that_cannot_be_written_is_found_before_anything_is_read(tmp_path, name, says):
    with (
        pytest.raises(OSError, match=says),
        create_or_resume_run_dir(Config(run_dir=str(tmp_path / name))),
    ):
        raise AssertionError


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/4/_METADATA", "report.html"])
def test_pipes_in_a_run_folder_are_not_waited_for(tmp_path, name):
    start(Config(), tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / name)
    for use in (read_config, lambda folder: start(Config(resume=True), folder)):
        with pytest.raises(UserError, match=f"{name} is no regular file; delete it"):
            use(tmp_path)


def test_nor_are_those_in_a_folder_without_a_run(tmp_path):
    os.mkfifo(tmp_path / "items.json")
    with pytest.raises(UserError, match=r"items\.json is no regular file; delete it"):
        start(Config(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "no-such"}, "unknown --model 'no-such'"),
        ({"max_len": 10**8}, "--max-len must be at most 1048576, not 100000000"),
        ({"d_model": "64"}, "d_model must be a whole number, not '64'"),
        ({"loss": "odd"}, "unknown --loss 'odd'; known"),
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"odd": 1}, "is not the configuration of a run"),
        ({"data_path": "a\0b"}, "data_path must be text that can be a name, not 'a\\x00b'"),
        ({"data_path": "\ud800"}, "data_path must be text that can be a name, not '\\ud800'"),
        ({"max_len": None}, "max_len or batch_size is missing"),
    ],
)
def test_a_config_that_no_run_has_is_refused_with_its_file(tmp_path, changes, says):
    write_json(tmp_path / "config.json", as_dict(Config()) | changes)
    with pytest.raises(UserError) as caught:
        read_own_config(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}")
    assert says in str(caught.value)


def test_a_run_with_a_part_that_its_model_never_had_goes_on(tmp_path):
    """As runs were started until 2026-11-30; a new one is refused, also with --resume."""
    config = Config(model="sasrec", filter=False, resume=True)
    with pytest.raises(UserError, match="--filter has no meaning for --model sasrec"):
        resolved(replace(config, resume=False))
    with pytest.raises(UserError, match="--filter has no meaning for --model sasrec"):
        start(resolved(config), tmp_path / "new")
    write_json(tmp_path / "config.json", as_dict(resolved(config)))
    with create_or_resume_run_dir(resolved(replace(config, run_dir=str(tmp_path)))):
        pass


def test_shares_of_a_run_keep_its_length(tmp_path):
    config = Config(schedule="cosine", epochs=4)
    start(config, tmp_path)
    start(replace(config, resume=True, patience=3), tmp_path)
    for change in ({"epochs": 5}, {"max_steps": 9}):
        with pytest.raises(UserError, match="was made with --"):
            start(replace(config, resume=True, **change), tmp_path)


def test_names_of_earlier_versions_are_read(tmp_path):
    values = {"width": 8, "state_size": 4, "conv_width": 3, "time_shards": 2, "hosts": None}
    values |= {"model": "mamba4rec", "host": None, "scan": "fused"}
    write_json(tmp_path / "config.json", values)
    today = {"d_model": 8, "d_state": 4, "d_conv": 3, "sequence_shards": 2, "scan": "tiled"}
    assert read_config(tmp_path) == Config(model="mamba4rec", **today)
    write_json(tmp_path / "config.json", {"model": "lagged-count"})
    assert read_config(tmp_path) == Config(model="lagged-count", lags=4, damping=0.5)
