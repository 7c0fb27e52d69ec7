"""What the tests of the benchmarks share."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def unchanged_settings():
    """Undo what commands set for their process."""
    cached, handler = jax.config.jax_enable_compilation_cache, signal.getsignal(signal.SIGINT)
    yield
    jax.config.update("jax_enable_compilation_cache", cached)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.fixture
def script():
    """Return what runs a benchmark as a user does: (exit code, output, errors)."""

    def run(name, *args):
        command = [sys.executable, SCRIPTS / name, *map(str, args)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run
