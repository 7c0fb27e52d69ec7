"""experiments/measure_step.py as a user runs it: shards change where a step runs, nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIZE = ["--items", "64", "--events", "16", "--batch-size", "4", "--d-model", "8", "--steps", "1"]


def run(*flags):
    return subprocess.run(
        [sys.executable, ROOT / "experiments" / "measure_step.py", *SIZE, *flags],
        env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


def test_losses_are_those_of_one_device(tmp_path):
    found = []
    for name, flags in {
        "one": [],
        "components": ["--devices", "4", "--item-shards", "2", "--sequence-shards", "2"],
    }.items():
        process = run("--output", tmp_path / f"{name}.json", *flags)
        assert process.returncode == 0, process.stderr
        found.append(json.loads((tmp_path / f"{name}.json").read_text()))
    one, parts = found
    assert parts["first_losses"] == pytest.approx(one["first_losses"], rel=1e-5)
    assert parts["devices"].startswith("4 x")
    assert one["parameters"] == parts["parameters"] > 64 * 8
    assert one["peak_resident_gib"] > one["step_memory_gib"] > 0
    assert str(tmp_path) not in json.dumps(found)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--item-shards", "3"], "--item-shards 3"),
        (["--devices", "4", "--sequence-shards", "3"], "--sequence-shards 3"),
        (["--devices", "8", "--sequence-shards", "8"], "--sequence-shards 8 leaves too little"),
    ],
)
def test_impossible_shards_are_refused_in_one_line(flags, named, tmp_path):
    process = run("--output", tmp_path / "step.json", *flags)
    assert process.returncode == 2
    assert named in process.stderr
    assert process.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
