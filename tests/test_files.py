"""Files that are whole or absent, whatever goes wrong while they are written."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from echojax.arrays import load_arrays, write_arrays
from echojax.files import read_json, write_atomically, write_json


@pytest.mark.parametrize("before", [None, b"old"])
def test_content_is_on_the_disk_before_it_gets_the_name(tmp_path, monkeypatch, before):
    path, done = tmp_path / "x.json", []
    if before is not None:
        path.write_bytes(before)
    fsync, replace = os.fsync, os.replace

    def synced(file):
        done.append(("fsync", os.fstat(file).st_ino, os.fstat(file).st_size))
        fsync(file)

    def replaced(source, target):
        assert (path.read_bytes() if path.exists() else None) == before
        done.append(("replace", os.stat(source).st_ino, os.stat(source).st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_atomically(path, "content")
    assert path.read_bytes() == b"content"
    (first, *file), (second, *same) = done
    assert (first, second) == ("fsync", "replace")
    assert file == same == [path.stat().st_ino, len("content")]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, error):
    def fails(*args):
        raise error

    path = tmp_path / "x.npz"
    write_arrays(path, {"x": np.arange(3)})
    monkeypatch.setattr(os, step, fails)
    with pytest.raises(type(error)) as caught:
        write_arrays(path, {"x": np.arange(9)})
    assert caught.value is error
    if isinstance(error, OSError):
        assert error.filename == str(path)
    assert [one.name for one in tmp_path.iterdir()] == ["x.npz"]
    assert np.array_equal(load_arrays(path)["x"], np.arange(3))


def test_what_is_no_regular_file_is_written_to(tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, "content")
    assert os.read(reader, 99) == b"content"
    os.close(reader)
    assert pipe.is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", "content")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "content"


def test_the_file_to_which_standard_output_goes_keeps_what_is_there(tmp_path):
    code = """
from pathlib import Path
from echojax.files import write_atomically
print("before")
write_atomically(Path("/dev/stdout"), "content\\n")
print("after")
"""
    with (tmp_path / "log").open("w") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "before\ncontent\nafter\n"


def test_new_files_have_the_permissions_that_the_user_wants(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "x", "content")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


def test_a_name_that_is_not_utf_8_can_be_written_of(tmp_path):
    write_atomically(tmp_path / "page", "of \udcff")
    assert (tmp_path / "page").read_text() == "of \\udcff"


def test_what_is_no_json_is_not_written(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o644
