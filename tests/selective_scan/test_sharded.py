"""Scans inside shard_map, on 8 simulated devices: what needs a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEW = ["tiled", "time-prefixes"]
OTHERS = [
    "associative", "sequential", "chunked", "reference", "pallas_gpu", "pallas_tpu", "readout",
    "time-sequential", "time-tiled", "time-readout", "time-both",
]  # fmt: skip


@pytest.mark.parametrize("names", [FEW, pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_shard_map_equals_one_device(names):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, "-m", "tests.selective_scan.on_eight_devices", *names],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == names
