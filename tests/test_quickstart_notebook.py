"""The notebook as it is stored, and its code run anew from top to bottom in a fresh process."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "experiments" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def cells():
    """Return the notebook's code cells."""
    notebook = json.loads(NOTEBOOK.read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_was_executed_in_order_and_without_an_error(cells):
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "error" not in kinds
    printed = [o for cell in cells for o in cell["outputs"] if o["output_type"] == "stream"]
    assert {output["name"] for output in printed} == {"stdout"}  # no warning was stored


def test_shows_what_came_of_it_and_no_path_of_a_machine(cells):
    text = NOTEBOOK.read_text()
    assert '"image/png"' in text
    assert "difference_low" in text  # the comparison's table
    assert len(text) < 200_000
    assert not re.search(r"/(home|tmp|root|work|usr|Users|opt)/", text)


@pytest.mark.slow
def test_runs_from_top_to_bottom(cells, tmp_path):
    pytest.importorskip("pandas")
    program = tmp_path / "quickstart.py"
    program.write_text("\n\n".join("".join(cell["source"]) for cell in cells))
    environment = os.environ | {
        "MPLBACKEND": "Agg", "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }  # fmt: skip
    environment.pop("XLA_FLAGS")  # it trains for longer than it compiles; see conftest.py
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in ("training ended: 12 epochs done", "HR@10 of Mamba4Rec minus", "manifest.json"):
        assert line in done.stdout
