"""How a command ends when something outside of it goes wrong."""

import subprocess
import sys

import pytest

from echojax.errors import exit_on_user_error

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


def test_another_broken_pipe_is_not_hidden():
    with pytest.raises(BrokenPipeError), exit_on_user_error():
        raise BrokenPipeError
