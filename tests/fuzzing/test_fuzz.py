"""Fuzzing's short form: every reader with a few inputs, and a reader that has a fault."""

import io
import json

import pytest
from rich.console import Console

from echojax.errors import UserError
from echojax.fuzzing import guard, run_folder_targets
from echojax.fuzzing.fuzz import Flags, fuzz


def fuzzed(folder, **flags):
    """Return whether no reader failed, and the report."""
    well = fuzz(Flags(out=folder, **flags), Console(file=io.StringIO()))
    return well, json.loads((folder / "fuzz-readers.json").read_text())


def test_every_reader_parses_or_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "INPUT_SECONDS", 60.0)  # a busy machine is no fault of a reader
    well, report = fuzzed(tmp_path, inputs=900)
    assert well
    summary = report["summary"]
    assert summary["inputs"] == summary["parsed"] + summary["refused"] > 800
    assert min(summary["parsed"], summary["refused"]) > 200
    assert len(report["readers"]) > 40
    for name, reader in report["readers"].items():
        assert reader["inputs"] >= 9, name


def test_a_reader_that_fails_is_seen_and_its_input_kept(tmp_path, monkeypatch):
    def careless(folder):
        return json.loads((folder / "items.json").read_bytes())["item_ids"]

    monkeypatch.setattr(run_folder_targets, "read_items", careless)
    well, report = fuzzed(tmp_path, inputs=2000, only="items.json")
    assert not well
    reader = report["readers"]["items.json"]
    assert 0 < reader["failed"] == report["summary"]["failed"]
    assert len(list((tmp_path / "failures").iterdir())) == reader["failed"]


def test_a_reader_that_there_is_not(tmp_path):
    with pytest.raises(UserError, match="--only zzz: no reader has that in its name"):
        fuzz(Flags(out=tmp_path, only="zzz"), Console(file=io.StringIO()))
