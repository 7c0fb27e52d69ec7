"""Commands in a process of their own."""

import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

# As in pyproject.toml.
WARNINGS = [
    "-W", "error::UserWarning",
    "-W", "ignore:Error reading persistent compilation cache entry:UserWarning",
]  # fmt: skip


@pytest.fixture(scope="session")
def start(environment):
    """Return a function that starts a command of experiments/ and returns the process."""

    def start(command, *args, cwd=None):
        script = str(ROOT / "experiments" / f"{command}.py")
        return subprocess.Popen(
            [sys.executable, *WARNINGS, script, *map(str, args)],
            env=environment, cwd=cwd or ROOT, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def wait_until(condition, *processes):
    """Wait for something that processes, none of which may end before it, are to do."""
    deadline = time.monotonic() + 200
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="session")
def command(start):
    """Return a function that runs a command to its end: (exit code, stdout, stderr)."""

    def run(name, *args, cwd=None):
        process = start(name, *args, cwd=cwd)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    return run
