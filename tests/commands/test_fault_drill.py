"""The drill as a user runs it; its short form in one process is in tests/faults."""

import json

import pytest


@pytest.mark.slow
def test_the_quick_drill(command, tmp_path):
    code, out, err = command("fault_drill.py", "--quick", "--out", tmp_path)
    assert code == 0, out + err
    report = json.loads((tmp_path / "fault-drill.json").read_text())
    assert report["summary"] == {"faults": 4, "after_best": 4, "failed": 0}
    assert all(fault["passed"] for fault in report["faults"])
    assert "4 faults, 4 of them after the best step, 0 failed" in out


@pytest.mark.slow
def test_the_drill_fails_with_each_bug(start):
    process = start("fault_drill.py", "--self-test")
    out, err = process.communicate(timeout=3600)
    assert process.returncode == 0, out + err
    assert "WRONG" not in out
