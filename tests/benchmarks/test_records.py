"""What was measured before can still be read."""

from pathlib import Path

import pytest

import harness
import pages
import scans
import serving
from echojax.files import read_record

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize("name", ["scans-cpu", "scans-cpu-million", "scans-cpu-one-core"])
def test_committed_scans_are_shown(name):
    document = read_record(RESULTS / f"{name}.json", harness.Document)
    text = pages.page(document, f"{name}.json", "Scans", *scans.tables(document.rows))
    assert "| fused |" in text
    assert (scans.pictures(document.rows)["against-length"] is None) == (name != "scans-cpu")


def test_committed_serving_is_shown():
    document = read_record(RESULTS / "serving-cpu.json", harness.Document)
    assert len(serving.tables(document.rows)) == 6
    assert serving.picture(document.rows)
