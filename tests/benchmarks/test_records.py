"""What was measured before can still be read."""

from pathlib import Path

import pytest

import harness
import pages
import scan_report
import serving
from echojax.files import read_record

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize("name", ["scans-cpu", "scans-cpu-million"])
def test_committed_scans_are_shown(name):
    document = read_record(RESULTS / f"{name}.json", harness.Document)
    text = pages.page(document, f"{name}.json", "Scans", *scan_report.parts(document.rows))
    assert "| chunked |" in text
    assert (scan_report.picture(document.rows) is None) == (name != "scans-cpu")


def test_the_gpu_record_is_shown_beside_others():
    rows = scan_report.read_rows(RESULTS / "gpu-2026-11-26.json")
    advice = scan_report.advice(rows).markdown()
    assert "| B 8, L 16384, E 2048, N 16, float32, NVIDIA H200 | pallas_gpu" in advice
    assert "| mamba_ssm on NVIDIA H200 |" in scan_report.tables(rows)[0].markdown()


def test_committed_serving_is_shown():
    document = read_record(RESULTS / "serving-cpu.json", harness.Document)
    assert len(serving.tables(document.rows)) == 6
    assert serving.picture(document.rows)


def test_each_fact_is_in_one_file():
    """Two suites of one data set share its certificate: the second has a link to it."""
    seen = {}
    for path in sorted(RESULTS.rglob("*")):
        if path.is_file() and not path.is_symlink():
            assert seen.setdefault(path.read_bytes(), path) == path
