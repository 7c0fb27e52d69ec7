"""Fuzzing as a user runs it, a few hundred inputs a reader; a shorter form is in tests/fuzzing."""

import json

import pytest


@pytest.mark.slow
def test_the_short_form(command, tmp_path):
    code, out, err = command("fuzz_readers.py", "--inputs", 9000, "--out", tmp_path)
    assert code == 0, out + err
    report = json.loads((tmp_path / "fuzz-readers.json").read_text())
    summary = report["summary"]
    assert summary["inputs"] == summary["parsed"] + summary["refused"] > 8900
    for name, reader in report["readers"].items():
        assert reader["parsed"] > 0, name
        assert reader["refused"] > 0 or name == "metrics.jsonl", name
