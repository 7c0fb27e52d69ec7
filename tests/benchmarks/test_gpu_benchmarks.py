"""The benchmarks of a GPU without one, and the tuning of block and tile sizes."""

import json

import jax
import pytest

import gpu_acceptance
import tune_scans
import tune_tiles
from scan_problems import Shape
from selective_scan import tiled
from selective_scan.gpu.plans import PLANS


def plan_row(plan, batch, milliseconds):
    """Return a row of the tuning; ``None`` stands for a plan that does not compile."""
    row = Shape(batch, 50, 128, 16)._asdict() | {"dtype": "float32", "what": "plan"}
    row |= {"implementation": plan, "pass": "forward+backward", "reason": None}
    if milliseconds is None:
        return row | {"status": "failed", "reason": "too much shared memory"}
    return row | {"status": "measured", "median_seconds": milliseconds / 1e3}


def test_the_best_plan_is_fast_at_every_size():
    a, b, c = (
        "block 32, chunk 16, ahead 1",
        "block 64, chunk 8, ahead 1",
        "block 64, chunk 8, ahead 2",
    )
    times = {a: (1, 4), b: (2, 2), c: (1.1, 2.2)}
    rows = [plan_row(plan, n, own[n]) for plan, own in times.items() for n in (0, 1)]
    assert tune_scans.slowness(rows) == {
        a: pytest.approx(2**0.5),
        b: pytest.approx(2**0.5),
        c: pytest.approx(1.1),
    }
    (line,) = tune_scans.plan_lines(rows)
    assert line.startswith("    16: Plan(block=64, chunk=8, ahead=2),  # 1.100 of the best")
    assert line.endswith("the present line: 1.414")
    rows[0] = plan_row(a, 0, None)  # must run at all sizes
    assert set(tune_scans.slowness(rows)) == {b, c}
    assert "too much shared memory" in tune_scans.failures(rows)[0]
    every = tune_scans.plans()
    assert len(set(every)) == len(every) == 18
    assert set(PLANS.values()) <= set(every)


@pytest.mark.slow
def test_the_tuning_dry_run(tmp_path, caplog):
    caplog.set_level("INFO")
    tune_scans.main(tune_scans.Flags(out=tmp_path / "t.json", dry_run=True))
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert {row["status"] for row in rows} == {"measured"}
    assert {row["what"] for row in rows} == {"plan", "segments"}
    assert "  # 1.000 of the best" in caplog.text
    assert "the rule's 1: " in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="tiles are of CPUs")
def test_tiles_of_other_sizes_give_the_same(tmp_path):
    before = tiled.tile_rows
    tune_tiles.main(tune_tiles.Flags(out=tmp_path / "t.json", dry_run=True))
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert {row["what"] for row in rows} == {"read-out", "scan"}
    assert all(row["median_seconds"] > 0 and row["difference"] < 1e-5 for row in rows)
    assert tiled.tile_rows is before


@pytest.mark.slow
def test_the_acceptance_dry_run(tmp_path, script):
    path = tmp_path / "gpu.json"
    code, out, err = script("gpu_acceptance.py", "--dry-run", "--out", path)
    assert code == 0, out + err
    document = json.loads(path.read_text())
    assert document["finished"]
    assert document["command"] == "python benchmarks/gpu_acceptance.py --dry-run"
    sections = {row["section"] for row in document["rows"]}
    assert sections == {"tests", "scans", "directions", "training"}
    assert {row["status"] for row in document["rows"]} <= {"passed", "measured", "skipped"}
    (run,) = (row for row in document["rows"] if row["section"] == "training")
    assert run["runs"]["auto"]["steps"] == run["runs"]["tiled"]["steps"] == 3


def test_a_failed_check_fails_the_acceptance(caplog):
    caplog.set_level("INFO")
    rows = [{"section": "tests", "name": "odd", "status": "failed", "reason": "y 1e-3"}]
    assert gpu_acceptance.summary(rows)
    assert '"reason": "y 1e-3"' in caplog.text
    assert not gpu_acceptance.summary([rows[0] | {"status": "skipped"}])
