"""The short drill: one run is killed, damaged, misled, out of disk, and ends in the same bits."""

import json

import pytest


@pytest.mark.slow
def test_the_short_drill(command, tmp_path):
    code, out, err = command("fault_drill.py", "--quick", "--out", tmp_path)
    assert code == 0, out + err
    report = json.loads((tmp_path / "fault-drill.json").read_text())
    assert report["summary"] == {
        "faults": 4, "failed": 0, "steps_lost": 0, "corrupt": 0, "silent": 0,
    }  # fmt: skip
    for fault in report["faults"]:
        assert fault["end"] == "bit-identical"
        assert fault["newest"] == fault["resumed_from"] > 0
    assert "4 faults, 0 failed" in out
