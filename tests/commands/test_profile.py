"""``train.py --profile N`` on two simulated devices: the split, the program's cost, the trace."""

import json
import os
import subprocess
import sys

import pytest

from tests.commands.conftest import ROOT

SMALL = [
    "--model", "sasrec", "--width", "8", "--heads", "1", "--max-len", "6", "--batch-size", "64",
    "--k-core", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def profiled(environment, data_file, tmp_path_factory):
    """Return the run folder, and what is printed and found at a first and a resumed start."""
    folder = tmp_path_factory.mktemp("runs") / "profiled"
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    starts = []
    for more in (["--epochs", "1"], ["--epochs", "2", "--resume"]):
        process = subprocess.run(
            [sys.executable, ROOT / "experiments/train.py", "--data-path", data_file, *SMALL,
             "--run-dir", folder, "--profile", "3", *more],
            env=environment | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        starts.append((process.stdout, json.loads((folder / "profile.json").read_text())))
    return folder, starts


def test_parts_sum_to_the_wall_time(profiled):
    for _, found in profiled[1]:
        assert found["steps"] == 3
        assert found["devices"] == 2
        assert sum(found["seconds"].values()) == pytest.approx(found["wall_seconds"])
        assert found["seconds"]["compute"] > 0
        assert found["seconds"]["collectives"] > 0
        assert 0 <= found["seconds"]["input"] <= found["waited_for_input_seconds"]
        assert found["waited_for_input_seconds"] < found["wall_seconds"]
        assert found["seconds_a_step_before_the_trace"] > 0


def test_the_program_is_described(profiled):
    (_, first), (_, second) = profiled[1]
    assert not first["compile"]["cached"]
    assert second["compile"]["cached"]
    for found in (first, second):
        assert all(found["compile"][kind] > 0 for kind in ("trace", "lower", "compile"))
        memory = found["memory"]
        assert memory["step"]["temp"] > 0
        # The old state is donated: the new one takes its place.
        assert 0 < memory["step"]["alias"] <= memory["step"]["argument"]
        # Both devices have a whole state.
        assert memory["live_array_bytes"] >= 2 * memory["step"]["alias"]


def test_it_is_printed_and_the_traces_are_there(profiled):
    folder, starts = profiled
    for out, _ in starts:
        assert "profile: 3 steps of" in out
        for part in ("compute", "collectives", "input", "host"):
            assert f"\n  {part} " in out
    for kind in ("xplane.pb", "trace.json.gz"):
        assert len(list(folder.glob(f"profile/plugins/profile/*/*.{kind}"))) == 2


def test_a_resumed_run_profiles_only_where_asked(profiled, command):
    folder, _ = profiled
    before = (folder / "profile.json").read_bytes()
    code, out, err = command("train.py", "--run-dir", folder, "--resume", "--epochs", "3")
    assert code == 0, err
    assert "profile:" not in out
    assert (folder / "profile.json").read_bytes() == before
