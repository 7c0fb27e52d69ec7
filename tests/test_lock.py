"""One process holds a lock, whatever the file system, the machines and their clocks are like."""

import errno
import fcntl
import json
import os
import resource
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from echojax import lock
from echojax.errors import UserError
from echojax.files import write_json
from echojax.lock import BusyError
from echojax.training.run_folder import lock as held

NO_PROCESS = 2**22 + 1  # none has this number
ELSEWHERE = {"host": "a third", "pid": 1, "boot": "another", "pids": ""}


def busy(folder):
    """Return what is said where the lock is held, nothing where it is free."""
    try:
        with held(folder):
            return ""
    except BusyError as error:
        return str(error)


def owner(pid, **other):
    boot, pids = lock._boot_and_process_ids()
    return {"host": "here", "pid": pid, "boot": boot, "pids": pids} | other


@pytest.fixture
def no_flock(monkeypatch):
    """The file system has no locks, as an NFS mounted without."""
    error = OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=error))


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.1)


def test_a_second_process_of_this_machine_is_refused(tmp_path):
    with held(tmp_path):
        assert busy(tmp_path) == f"another process trains in {tmp_path}; wait for it, or stop it"
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_with_locks_an_owner_that_was_killed_here_is_not_waited_for(tmp_path, caplog):
    caplog.set_level("INFO")
    for found in (owner(os.getppid()), owner(1, pids="a container's")):
        write_json(tmp_path / ".lock", found)
        assert not busy(tmp_path)
    assert caplog.messages == []


def test_without_locks_a_process_that_lives_here_keeps_it(tmp_path, no_flock):
    write_json(tmp_path / ".lock", owner(os.getppid()))
    assert f"process {os.getppid()} of here trains in {tmp_path}" in busy(tmp_path)
    for pid in (NO_PROCESS, os.getpid()):  # the number came again, as it does in a container
        write_json(tmp_path / ".lock", owner(pid))
        assert not busy(tmp_path)


@pytest.mark.parametrize("other", [{"boot": "another"}, {"pids": "another container"}])
def test_one_elsewhere_keeps_it_while_its_heart_beats(tmp_path, no_flock, monkeypatch, other):
    """Even one with the same name, and the number of a process here that has ended, or is ours."""
    names = owner(0, **other)
    with monkeypatch.context() as patch:
        patch.setattr(lock, "_boot_and_process_ids", lambda: (names["boot"], names["pids"]))
        owner_there = held(tmp_path)
        owner_there.__enter__()
    assert busy(tmp_path)
    owner_there.__exit__(None, None, None)
    for pid in (os.getpid(), NO_PROCESS):  # it was killed
        write_json(tmp_path / ".lock", names | {"pid": pid})
        assert not busy(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hours", [-5, 5])
def test_clocks_may_differ(tmp_path, no_flock, hours, monkeypatch):
    """What counts is that the time of the file changes, not what it is."""
    write_json(tmp_path / ".lock", ELSEWHERE)
    then = time.time() + 3600 * hours
    os.utime(tmp_path / ".lock", (then, then))
    assert not busy(tmp_path)

    write_json(tmp_path / ".lock", ELSEWHERE)
    stat = os.stat

    def beats(path, **options):  # by the owner's clock
        if Path(path).name == ".lock":
            nonlocal then
            then += 1
            os.utime(path, (then, then))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", beats)
    assert busy(tmp_path)


def test_an_owner_of_an_earlier_version_gets_time_for_a_sign(tmp_path, no_flock):
    write_json(tmp_path / ".lock", {"host": "here", "pid": os.getppid()})
    assert not busy(tmp_path)


def test_what_another_user_runs_here_keeps_it(tmp_path, no_flock, monkeypatch):
    monkeypatch.setattr(os, "kill", Mock(side_effect=PermissionError))
    write_json(tmp_path / ".lock", owner(1))
    assert "process 1 of here" in busy(tmp_path)


def test_of_two_that_find_a_dead_owner_one_takes_over(tmp_path, no_flock, monkeypatch):
    """The second has read the old lock file before the first takes it over."""
    write_json(tmp_path / ".lock", ELSEWHERE)
    check, inside = lock._check_owner_is_gone, []

    def checked(*args, **options):
        check(*args, **options)
        if not inside:
            inside.append(held(tmp_path))
            inside[0].__enter__()

    monkeypatch.setattr(lock, "_check_owner_is_gone", checked)
    assert f"another process trains in {tmp_path}" in busy(tmp_path)
    assert (tmp_path / ".lock").exists()
    inside[0].__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_another_has_taken_over_stays_when_its_first_owner_ends(tmp_path):
    with held(tmp_path):
        write_json(tmp_path / ".lock", ELSEWHERE)
    assert json.loads((tmp_path / ".lock").read_text()) == ELSEWHERE


def test_a_lock_file_that_cannot_be_read_is_left_alone(tmp_path, no_flock, monkeypatch):
    write_json(tmp_path / ".lock", ELSEWHERE)
    refused = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".lock"))
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=refused))
    with pytest.raises(PermissionError):
        busy(tmp_path)
    assert (tmp_path / ".lock").exists()


def test_half_a_lock_file_is_that_of_a_dead_owner_in_the_end(tmp_path, no_flock):
    (tmp_path / ".lock").write_text('{"host": "a th')
    assert not busy(tmp_path)


def test_nothing_is_waited_for_or_written_through_a_link(tmp_path, no_flock):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(UserError, match="is no regular file; delete it"):
        busy(tmp_path)
    (tmp_path / ".lock").unlink()
    (tmp_path / "mine").write_text("precious")
    planted = tmp_path / f".lock.{lock.socket.gethostname()}.{os.getpid()}"
    planted.symlink_to(tmp_path / "mine")
    assert not busy(tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("links", [True, False])
def test_a_full_disk_leaves_no_part_of_a_lock_file(tmp_path, monkeypatch, links):
    if not links:
        refused = OSError(errno.EPERM, "Operation not permitted")
        monkeypatch.setattr(os, "link", Mock(side_effect=refused))
    assert not busy(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            busy(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_no_process_can_have_is_nobodys(tmp_path, no_flock):
    write_json(tmp_path / ".lock", owner(2**62))
    assert not busy(tmp_path)


def test_where_no_thread_can_be_started_nothing_is_left(tmp_path, monkeypatch):
    error = RuntimeError("can't start new thread")
    monkeypatch.setattr(lock.threading.Thread, "start", Mock(side_effect=error))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        busy(tmp_path)
    assert list(tmp_path.iterdir()) == []
