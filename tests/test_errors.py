"""How a command ends when something outside of it goes wrong."""

import errno
import io
import os
import signal
import subprocess
import sys

import pytest
from jax.errors import JaxRuntimeError

from echojax.errors import UserError, exit_on_user_error, unknown_name
from echojax.signals import Interrupted, Stopped

MANY_LINES = """
from echojax.errors import exit_on_user_error
with exit_on_user_error():
    for number in range(100_000):
        print(number)
"""


def test_it_ends_without_a_word_when_its_reader_has_left():
    process = subprocess.Popen(
        [sys.executable, "-c", MANY_LINES],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.parametrize(
    "error", [BrokenPipeError(), JaxRuntimeError("INTERNAL: a bug of a kernel")], ids=repr
)
def test_another_error_is_not_hidden(error):
    with pytest.raises(type(error)), exit_on_user_error():
        raise error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "run"), "cannot use run: Read-only file"),
        (PermissionError(errno.EACCES, "Permission denied", "run"), "cannot use run: Permission"),
        (OSError(errno.EIO, "Input/output error"), "cannot use a file: Input/output error; fix"),
        (OSError(errno.ENOSPC, "No space left", "run"), "cannot write run: No space left; free"),
        (MemoryError("Unable to allocate 3 GiB"), "out of memory (Unable to allocate 3 GiB); free"),
        (
            JaxRuntimeError("RESOURCE_EXHAUSTED: 3 GiB"),
            # Most commands have no flag for the size of a batch.
            "out of memory on a device (RESOURCE_EXHAUSTED: 3 GiB); ask for less at once, as with "
            "a smaller batch (in training: --microbatch",
        ),
        (JaxRuntimeError("INTERNAL: ...: Out of memory allocating 9"), "out of memory on a device"),
    ],
)
def test_what_the_system_refuses_is_one_line(error, says, capsys):
    with pytest.raises(SystemExit) as stopped, exit_on_user_error():
        raise error
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {says}")
    assert line.count("\n") == 1


def test_a_name_in_other_letters_is_near():
    assert "did you mean 'sasrec'?" in str(unknown_name("--model", "SASRec", ["sasrec", "narm"]))


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Stopped(signal.SIGHUP)])
def test_a_signal_ends_in_one_line(stop, capsys):
    with pytest.raises(SystemExit) as stopped, exit_on_user_error():
        raise stop
    assert stopped.value.code == 128 + getattr(stop, "signum", signal.SIGINT)
    assert capsys.readouterr().err == "stopped\n"


def test_a_signal_after_which_all_was_saved_is_told_on_standard_output(capsys):
    with pytest.raises(SystemExit) as stopped, exit_on_user_error():
        raise Interrupted("stopped and saved; go on with: ...", signal.SIGTERM)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr() == ("stopped and saved; go on with: ...\n", "")


def test_names_that_a_terminal_cannot_show_are_escaped(monkeypatch):
    bytes_written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_written, encoding="ascii"))
    with exit_on_user_error():
        print("±", os.fsdecode(b"\xff"))
    sys.stdout.flush()
    assert bytes_written.getvalue() == b"\\xb1 \\udcff\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_closed_streams_end_no_command(name, monkeypatch):
    monkeypatch.setattr(sys, name, None)

    def command():
        print("fine")
        raise UserError("wrong")

    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        command()
    assert stop.value.code == 2
    getattr(sys, name).close()
