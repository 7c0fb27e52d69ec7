"""The benchmark of serving in small."""

import json

import pytest

import serving


@pytest.mark.slow
def test_serving(tmp_path, caplog):
    path = tmp_path / "s.json"
    flags = serving.Flags(quick=True, models=("sasrec",), max_memory_gib=0.5, out=path)
    serving.main(flags)
    results = json.loads(path.read_text())
    assert results["command"] == (
        "python benchmarks/serving.py --models sasrec --max-memory-gib 0.5 --quick"
    )
    assert [(row["kind"], row["model"], row["catalogue"]) for row in results["rows"]] == [
        ("encode", "sasrec", None),
        ("encode", "sasrec", None),
        ("event", "mamba4rec", None),
        ("event", "mamba4rec", None),
        ("top-k", None, 1000),
        ("top-k", None, 2000),
    ]
    for row in results["rows"]:
        assert row["status"] == "measured", row
        assert 0 < row["min_seconds"] <= row["p50_seconds"] <= row["p99_seconds"]
        assert row["repeats"] >= 3
        assert row["memory_bytes"] > 0
    assert "## Updating by one more event, batch 2" in path.with_suffix(".md").read_text()
    assert path.with_name("s-against-length.png").read_bytes().startswith(b"\x89PNG")


def test_growth_is_the_power_between_the_two_longest():
    rows = [{"length": n, "p50_seconds": s} for n, s in ((10, 9.0), (4, 7.0), (20, 36.0))]
    assert serving.growth(rows) == "length^2"
    assert serving.growth([*rows[:1], {"length": 40, "p50_seconds": None}]) == "–"
