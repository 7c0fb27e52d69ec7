"""Commands as a user gives them, in this process or in one of their own, on a small file."""

import contextlib
import fcntl
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT, reporting

SMALL = [
    "--d-model", "8", "--d-state", "4", "--max-len", "8", "--batch-size", "64",
    "--k-core", "2", "--learning-rate", "0.01", "--scan", "sequential",  # quick to compile
]  # fmt: skip

# As in pyproject.toml.
WARNINGS = [
    "-W", "error::UserWarning",
    "-W", "ignore:Error reading persistent compilation cache entry:UserWarning",
]  # fmt: skip

# The run that others, disturbed, must end like.
WHOLE = [*SMALL, "--epochs", "8", "--checkpoint-every", "8"]


@contextlib.contextmanager
def made_once(folder):
    """Let one worker make what is to be in a shared folder; the others wait for it.

    Gives whether it is still to be made.
    """
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done"
        yield not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def data_file(shared_folder):
    """Return a file of 60 users who walk around a ring of 30 items, with some noise; titles too."""
    folder = shared_folder / "ring"
    folder.mkdir(exist_ok=True)
    path = folder / "ring.inter"
    with made_once(folder) as wanted:
        if wanted:
            write_ring(path)
    return path


def write_ring(path):
    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(60):
        item = rng.integers(30)
        for time in range(rng.integers(8, 20)):
            item = (item + 1) % 30 if rng.random() < 0.9 else rng.integers(30)
            lines.append(f"u{user}\ti{item}\t{time}")
    path.write_text("\n".join(lines) + "\n")
    titles = "".join(f"i{n}\tStop {n}\n" for n in range(30))
    path.with_suffix(".item").write_text(f"item_id:token\ttitle:token_seq\n{titles}")


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


@pytest.fixture(scope="session")
def command(start):
    """Return a function that runs a command to its end: (exit code, stdout, stderr)."""

    def run(name, *args, cwd=None):
        process = start(name, *args, cwd=cwd)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    return run


@pytest.fixture(scope="session")
def finished(call, data_file, shared_folder):
    """Return the folder of a run that ended undisturbed, and what it printed."""
    folder = shared_folder / "finished"
    folder.mkdir(exist_ok=True)
    run, printed = folder / "run", folder / "out.txt"
    with made_once(folder) as wanted:
        if wanted:
            with reporting():
                code, out, err = call("train", "--data-path", data_file, *WHOLE, "--run-dir", run)
            assert code == 0, err
            printed.write_text(out)
    return run, printed.read_text()
