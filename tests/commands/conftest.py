"""Commands as a user runs them: in a subprocess, on a small file of their own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
SMALL = [
    "--d-model", "8", "--d-state", "4", "--max-len", "8", "--batch-size", "64",
    "--k-core", "2", "--learning-rate", "0.01",
]  # fmt: skip

# The run that others, disturbed, must end like.
WHOLE = [*SMALL, "--epochs", "8", "--checkpoint-every", "8"]


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Return an environment with caches of its own and no way to a network.

    Compiled programs are shared with the tests that run in other processes at the same time.
    """
    base = tmp_path_factory.getbasetemp()
    programs = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
    nowhere = "http://127.0.0.1:9"
    return os.environ | {
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("caches")),
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "PIP_INDEX_URL": nowhere, "PIP_NO_INDEX": "1", "HTTPS_PROXY": nowhere, "COLUMNS": "100",
    }  # fmt: skip


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
    """Return a file of 60 users who walk around a ring of 30 items, with some noise; titles too."""
    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(60):
        item = rng.integers(30)
        for time in range(rng.integers(8, 20)):
            item = (item + 1) % 30 if rng.random() < 0.9 else rng.integers(30)
            lines.append(f"u{user}\ti{item}\t{time}")
    path = tmp_path_factory.mktemp("data") / "ring.inter"
    path.write_text("\n".join(lines) + "\n")
    titles = "".join(f"i{n}\tStop {n}\n" for n in range(30))
    path.with_suffix(".item").write_text(f"item_id:token\ttitle:token_seq\n{titles}")
    return path


@pytest.fixture(scope="session")
def start(environment):
    """Return a function that starts a command of experiments/ and returns the process."""

    def start(command, *args, cwd=None):
        script = str(ROOT / "experiments" / command)
        return subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", script, *map(str, args)],
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
def finished(command, data_file, tmp_path_factory):
    """Return the folder of a run that ended undisturbed, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    code, out, err = command("train.py", "--data-path", data_file, *WHOLE, "--run-dir", folder)
    assert code == 0, err
    return folder, out
