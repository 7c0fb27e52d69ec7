"""The run folder: whose it is, what it may hold before, and what is read back from it."""

import errno
import fcntl
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from echojax.config import Config, as_dict
from echojax.data import Dataset
from echojax.errors import UserError
from echojax.files import write_json
from echojax.training import run_folder
from echojax.training.run_folder import (
    BusyError,
    create_or_resume_run_dir,
    lock,
    read_config,
    write_start,
)

DATASET = Dataset(
    name="x", items_T=np.ones(1, np.int32), times_T=np.zeros(1), offsets=np.array([0, 1]),
    user_ids=np.array(["u"]), item_ids=np.array(["", "i"]), fingerprint={"sha256": "0"},
)  # fmt: skip


def start(config, folder):
    """Make the folder of a run in it."""
    with create_or_resume_run_dir(replace(config, run_dir=str(folder))) as path:
        write_start(path, config, DATASET, {})
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


def test_a_taken_folder_is_refused(tmp_path):
    start(Config(), tmp_path / "run")
    with pytest.raises(UserError, match="exists; add --resume to go on, or name another"):
        start(Config(), tmp_path / "run")
    with pytest.raises(UserError, match="was made with --seed 0, not 1; leave --seed out"):
        start(Config(seed=1, resume=True), tmp_path / "run")
    start(Config(resume=True, epochs=3), tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    with pytest.raises(UserError, match=r"has files but no config\.json of a run"):
        start(Config(resume=True), tmp_path / "mine")


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_read(tmp_path):
    with (
        pytest.raises(OSError, match="/proc"),
        create_or_resume_run_dir(Config(run_dir="/proc/echojax")),
    ):
        raise AssertionError
    with (
        pytest.raises(OSError, match="too long"),
        create_or_resume_run_dir(Config(run_dir=str(tmp_path / ("x" * 300)))),
    ):
        raise AssertionError


@pytest.fixture
def no_flock(monkeypatch):
    """The file system has no locks, as an NFS mounted without."""

    def fails(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fails)
    monkeypatch.setattr(run_folder, "_HEARTBEAT_SECONDS", 0.1)


def test_a_second_process_of_this_machine_is_refused(tmp_path, monkeypatch):
    with lock(tmp_path):
        with pytest.raises(BusyError, match="another process trains in"), lock(tmp_path):
            raise AssertionError
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_a_process_that_lives_here_keeps_the_folder(tmp_path, no_flock):
    owner = {"host": socket.gethostname(), "pid": os.getppid()}
    write_json(tmp_path / ".lock", owner)
    with pytest.raises(BusyError, match=f"process {os.getppid()} of .* trains in"), lock(tmp_path):
        raise AssertionError
    write_json(tmp_path / ".lock", owner | {"pid": 2**22 + 1})  # none has this number
    with lock(tmp_path):
        pass


def test_one_elsewhere_keeps_it_while_its_heart_beats(tmp_path, no_flock, monkeypatch):
    with lock(tmp_path):
        monkeypatch.setattr(socket, "gethostname", lambda: "another")
        with pytest.raises(BusyError, match="trains in"), lock(tmp_path):
            raise AssertionError
    write_json(tmp_path / ".lock", {"host": "a third", "pid": 1})  # it was killed
    with lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_another_user_runs_here_keeps_the_folder(tmp_path, no_flock, monkeypatch):
    def refused(pid, signum):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    write_json(tmp_path / ".lock", {"host": socket.gethostname(), "pid": 1})
    with pytest.raises(BusyError, match="process 1 of"), lock(tmp_path):
        raise AssertionError


def test_of_two_that_find_a_dead_owner_one_takes_over(tmp_path, no_flock, monkeypatch):
    """The second has read the old lock file before the first takes the folder."""
    write_json(tmp_path / ".lock", {"host": "a third", "pid": 1})
    check, inside = run_folder._check_owner_is_gone, []

    def checked(*args, **options):
        check(*args, **options)
        if not inside:
            inside.append(lock(tmp_path))
            inside[0].__enter__()

    monkeypatch.setattr(run_folder, "_check_owner_is_gone", checked)
    with pytest.raises(BusyError, match="another process has begun"), lock(tmp_path):
        raise AssertionError
    assert (tmp_path / ".lock").exists()
    inside[0].__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_cannot_be_read_is_left_alone(tmp_path, no_flock, monkeypatch):
    write_json(tmp_path / ".lock", {"host": "a third", "pid": 1})
    refused = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".lock"))

    def fails(path):
        raise refused

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(PermissionError), lock(tmp_path):
        raise AssertionError
    assert (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "no-such"}, "unknown --model 'no-such'"),
        ({"max_len": 10**8}, "--max-len must be at most 1048576, not 100000000"),
        ({"d_model": "64"}, "d_model must be a whole number, not '64'"),
        ({"loss": "odd"}, "loss must be 'softmax' or 'sampled-softmax'"),
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"odd": 1}, "is not the configuration of a run"),
    ],
)
def test_a_config_that_no_run_has_is_refused_with_its_file(tmp_path, changes, says):
    write_json(tmp_path / "config.json", as_dict(Config()) | changes)
    with pytest.raises(UserError) as caught:
        read_config(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}")
    assert says in str(caught.value)


def test_names_of_earlier_versions_are_read(tmp_path):
    values = {"width": 8, "state_size": 4, "conv_width": 3, "time_shards": 2, "hosts": None}
    values |= {"model": "mamba4rec", "host": None, "scan": "fused"}
    write_json(tmp_path / "config.json", values)
    today = {"d_model": 8, "d_state": 4, "d_conv": 3, "sequence_shards": 2, "scan": "tiled"}
    assert read_config(tmp_path) == Config(model="mamba4rec", **today)
