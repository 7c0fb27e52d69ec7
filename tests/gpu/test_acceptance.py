"""A failed check fails the whole acceptance, and everything else runs all the same."""

import io
import json
from contextlib import nullcontext

import pytest
from rich.console import Console

from echojax.gpu import acceptance

SECTIONS = ("scan_checks", "model_checks", "scan_timings", "direction_timings", "training_runs")


@pytest.fixture
def accept(monkeypatch, tmp_path):
    """Return a function that accepts with one check alone, and gives (passed, document)."""

    def run(row):
        for name in SECTIONS:
            monkeypatch.setattr(acceptance, name, lambda *_, **__: iter([]))
        monkeypatch.setattr(acceptance, "scan_checks", lambda **_: iter([("odd", lambda: row)]))
        monkeypatch.setattr(acceptance, "measure_roofline", lambda _: acceptance.Roofline(1.0, 1.0))
        monkeypatch.setattr(acceptance, "kernels", lambda **_: nullcontext())
        flags = acceptance.Flags(out=tmp_path / "gpu.json", rehearse=True)
        passed = acceptance.accept(flags, Console(file=io.StringIO()))
        return passed, json.loads((tmp_path / "gpu.json").read_text())

    return run


def test_a_failed_check_fails_it(accept):
    passed, document = accept({"status": "failed", "reason": "y 1e-3"})
    assert not passed
    assert not document["passed"]
    assert document["finished"]
    assert document["roofline"][0]["status"] == "measured"


def test_what_had_no_time_or_room_does_not(accept):
    passed, document = accept({"status": "skipped", "reason": "no time left"})
    assert passed
    assert document["passed"]
