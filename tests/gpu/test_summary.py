"""The summary shows what was measured and what failed."""

import io

from rich.console import Console

from echojax.gpu.scan_timings import SHORT
from echojax.gpu.summary import failures, print_summary


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


def test_the_summary_shows_times_and_failures():
    timed = problem(
        SHORT[0], program("pallas_gpu", 0.5, 2**20, times_floor=1.9, errors={"y": None})
    )
    document = {
        "checks": [{"name": "odd", "status": "failed", "reason": "y 1e-3"}],
        "timings": [timed],
    }
    assert [row["name"] for row in failures(document)] == ["odd"]
    out = io.StringIO()
    print_summary(document, Console(file=out, width=100))
    text = out.getvalue()
    assert "failed: odd: y 1e-3" in text
    assert "1.9" in text
