"""Targets are met, missed or not measured, and the summary says the same."""

import io

import pytest
from rich.console import Console

from echojax.gpu.scan_timings import LONG, SHORT
from echojax.gpu.summary import failures, print_summary
from echojax.gpu.targets import targets


def program(name, milliseconds, temporary, **more):
    seconds = {
        "median_seconds": milliseconds / 1e3,
        "quartiles_seconds": [milliseconds / 1e3] * 2,
        "samples": 5,
    }
    return {
        "implementation": name, "pass": "forward", "status": "measured", "alone": seconds,
        "queued": seconds, "memory": {"temporary": temporary}, **more,
    }  # fmt: skip


def problem(shape, *programs):
    return {
        "name": str(shape), "status": "measured", "shape": shape._asdict(), "dtype": "float32",
        "programs": list(programs),
    }  # fmt: skip


def by_name(rows):
    return {row["target"]: (row["status"], row["value"]) for row in rows}


def test_met_and_missed():
    rows = targets(
        [
            problem(
                SHORT[0],
                program("pallas_gpu", 0.5, 1000, times_floor=1.9),
                program("associative", 9.0, 60_000),
                program("mamba_ssm", 1.5, None),
            )
        ]
    )
    assert by_name(rows) == {
        "time over the floor": ("met", 1.9),
        "times as fast as mamba_ssm": ("met", pytest.approx(3)),
        "times as fast as associative": ("missed", pytest.approx(18)),
        "memory of associative over ours": ("met", 60),
    }


def test_without_a_rival_nothing_is_claimed():
    too_large = program("associative", 0, 10**9) | {"status": "skipped", "reason": "needs 99 GiB"}
    rows = targets([problem(SHORT[1], program("pallas_gpu", 1, 0, times_floor=3.0), too_large)])
    assert by_name(rows) == {
        "time over the floor": ("missed", 3.0),
        "times as fast as mamba_ssm": ("not measured", None),
        "times as fast as associative": ("not measured", None),
        "memory of associative over ours": ("met", 10**9),  # the compiler tells all the same
    }
    reasons = {row["target"]: row["reason"] for row in rows}
    assert reasons["times as fast as mamba_ssm"] == "mamba_ssm is not installed"
    assert reasons["times as fast as associative"] == "associative needs 99 GiB"


def test_a_kernel_that_failed_has_met_nothing():
    broken = {
        **program("pallas_gpu", 1, 1, times_floor=1), "status": "failed", "reason": "y is off"
    }  # fmt: skip
    rows = targets([problem(SHORT[0], broken, program("associative", 9, 10))])
    assert {row["status"] for row in rows} == {"not measured"}


def test_long_rows_want_to_be_ahead():
    ours, other = program("pallas_gpu", 5, 1), program("associative", 6, 1)
    rows = targets([problem(LONG, ours, other)])
    assert by_name(rows)["times as fast as associative"] == ("met", pytest.approx(1.2))
    assert "time over the floor" not in by_name(rows)


def test_a_problem_that_could_not_be_made_has_no_targets():
    assert targets([{"name": "x", "status": "failed", "reason": "out of memory"}]) == []


def test_the_summary_shows_times_targets_and_failures():
    timed = problem(
        SHORT[0], program("pallas_gpu", 0.5, 2**20, times_floor=1.9, errors={"y": None})
    )
    document = {
        "checks": [{"name": "odd", "status": "failed", "reason": "y 1e-3"}],
        "timings": [timed],
        "targets": targets([timed]),
    }
    assert [row["name"] for row in failures(document)] == ["odd"]
    out = io.StringIO()
    print_summary(document, Console(file=out, width=100))
    text = out.getvalue()
    assert "failed: odd: y 1e-3" in text
    assert "1.9" in text
    assert "not measured" in text
