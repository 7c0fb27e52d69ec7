"""``train.py --profile N`` on two simulated devices: the split, the program's cost, the trace."""

import json
import os
import subprocess
import sys

import pytest

from echojax.commands.train import read_command_line
from echojax.config import Config, as_dict
from echojax.files import write_json
from tests.conftest import ROOT

SMALL = [
    "--model", "gru4rec", "--d-model", "8", "--hidden-size", "8", "--max-len", "6",
    "--batch-size", "16", "--k-core", "2", "--dropout", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def profiled(environment, data_file, tmp_path_factory):
    """Return the run folder, what is printed and what is found; an epoch has four steps."""
    folder = tmp_path_factory.mktemp("runs") / "profiled"
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    process = subprocess.run(
        [sys.executable, ROOT / "experiments/train.py", "--data-path", data_file, *SMALL,
         "--run-dir", folder, "--profile", "5", "--epochs", "3"],
        env=environment | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        | {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "programs")},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return folder, process.stdout, json.loads((folder / "profile.json").read_text())


@pytest.mark.slow
def test_parts_sum_to_the_wall_time(profiled):
    _, _, found = profiled
    assert found["steps"] == 5
    assert found["devices"] == 2
    assert sum(found["seconds"].values()) == pytest.approx(found["wall_seconds"])
    assert found["seconds"]["compute"] > 0
    assert found["seconds"]["collectives"] > 0
    assert 0 <= found["seconds"]["input"] <= found["waited_for_input_seconds"]
    assert found["waited_for_input_seconds"] < found["wall_seconds"]
    assert found["seconds_a_step_before_the_trace"] > 0


@pytest.mark.slow
def test_the_program_is_described(profiled):
    _, _, found = profiled
    assert not found["compile"]["cached"]
    assert all(found["compile"][kind] > 0 for kind in ("trace", "lower", "compile"))
    memory = found["memory"]
    assert memory["step"]["temp"] > 0
    # The old state is donated: the new one takes its place.
    assert 0 < memory["step"]["alias"] <= memory["step"]["argument"]
    # Both devices have a whole state.
    assert memory["live_array_bytes"] >= 2 * memory["step"]["alias"]


@pytest.mark.slow
def test_it_is_printed_and_the_trace_is_there(profiled):
    folder, out, _ = profiled
    assert "profile: 5 steps of" in out
    for part in ("compute", "collectives", "input", "host"):
        assert f"\n  {part} " in out
    for kind in ("xplane.pb", "trace.json.gz"):
        assert list(folder.glob(f"profile/plugins/profile/*/*.{kind}"))


def test_a_resumed_run_profiles_only_where_asked(tmp_path):
    write_json(tmp_path / "config.json", as_dict(Config(profile=5)))
    resume = ["--run-dir", str(tmp_path), "--resume"]
    assert read_command_line(resume).profile is None
    assert read_command_line([*resume, "--profile", "2"]).profile == 2
