"""Several devices compute what one does: on 8 simulated ones, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.on_eight_devices import FEW, PARALLEL

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("which", ["few", pytest.param("all", marks=pytest.mark.slow)])
def test_losses_parameters_and_ranks_are_those_of_one_device(which):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    # Programs that the cache gives back for other devices than they were compiled for end JAX.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    process = subprocess.run(
        [sys.executable, "-m", "tests.training.on_eight_devices", which],
        env=environment | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        " ".join(map(str, (name, *case)))
        for name, cases in (FEW if which == "few" else PARALLEL).items()
        for case in cases
    ]
