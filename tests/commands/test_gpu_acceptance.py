"""The GPU's acceptance and tuning from the command line, rehearsed without the hardware."""

import json
import signal
import time

import jax
import pytest

from tests.commands.test_bad_input import only_line

COMMANDS = ["gpu_acceptance.py", "tune_scans.py"]


@pytest.mark.slow
def test_a_rehearsed_acceptance_runs_every_section(command, tmp_path):
    path = tmp_path / "new" / "gpu.json"
    code, out, err = command("gpu_acceptance.py", "--rehearse", "--out", path)
    assert code == 0, out + err
    text = path.read_text()
    assert str(tmp_path) not in text
    document = json.loads(text)
    assert document["rehearsal"]
    assert document["finished"]
    assert document["passed"]
    assert document["command"] == "python experiments/gpu_acceptance.py --rehearse"
    assert document["machine"]["versions"]["jax"] == jax.__version__
    for row in (*document["checks"], *document["model"]):
        assert row["status"] == "passed", row
    kernels = [row["name"] for row in document["checks"] if row["name"].startswith("pallas_gpu")]
    for words in ("bfloat16", "reverse", "both directions", "vmap", "the same bits", "N 69"):
        assert any(words in name for name in kernels), words
    for section in ("timings", "directions"):
        for program in document[section][0]["programs"]:
            low, high = program["queued"]["quartiles_seconds"]
            assert 0 < low <= program["queued"]["median_seconds"] <= high
            assert program["memory"]["arguments"] > 0
    names = {program["implementation"] for program in document["timings"][0]["programs"]}
    assert {"pallas_gpu", "fused", "chunked", "associative"} <= names
    (training,) = document["training"]
    assert training["auto_is"] == "pallas_gpu"
    assert training["runs"]["auto"]["steps"] == training["runs"]["fused"]["steps"] == 3
    assert training["runs"]["auto"]["epoch_seconds"] > 0
    assert "rehearsal" in out
    assert "summary" in out


def test_a_rehearsed_tuning_prints_the_lines(command, tmp_path):
    path = tmp_path / "plans.json"
    code, out, err = command("tune_scans.py", "--rehearse", "--out", path)
    assert code == 0, err
    document = json.loads(path.read_text())
    assert document["finished"]
    (problem,) = document["plans"]
    measured = [row for row in problem["programs"] if row["status"] == "measured"]
    assert [row["pass"] for row in measured] == ["forward"] + 2 * ["forward+backward"]
    (line,) = document["best"]
    assert f"    {line['line']}  # 1.000 of the best" in out
    assert "the rule's 1:" in out


def test_interrupted_it_keeps_what_there_is(start, tmp_path):
    path = tmp_path / "gpu.json"
    process = start("gpu_acceptance.py", "--rehearse", "--out", path)
    deadline = time.monotonic() + 120
    while not (path.exists() and json.loads(path.read_text()).get("checks")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"what there is is in {path}" in out
    assert "Traceback" not in err
    document = json.loads(path.read_text())
    assert not document["finished"]
    assert document["checks"][0]["status"] == "passed"


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_gpu_one_line_says_so(name, command, tmp_path):
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU here")
    code, out, err = command(name, cwd=tmp_path)
    assert code == 2
    assert "needs an NVIDIA GPU; this is " in only_line(err)
    assert "--rehearse" in err
    assert out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_an_existing_file_is_kept(name, command, tmp_path):
    path = tmp_path / "gpu.json"
    path.write_text("mine")
    code, _, err = command(name, "--rehearse", "--out", path)
    assert code == 2
    assert "move it away" in only_line(err)
    assert path.read_text() == "mine"


def test_a_data_folder_without_data_is_said(command, tmp_path):
    code, _, err = command("gpu_acceptance.py", "--rehearse", "--data-dir", tmp_path)
    assert code == 2
    assert "holds neither ml-1m nor ml-100k" in only_line(err)
