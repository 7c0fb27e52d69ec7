"""What came of the inputs, counted and reported."""

from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from rich.table import Table

from echojax.fuzzing.guard import INPUT_BYTES, INPUT_SECONDS, peak_bytes
from echojax.machine import cores, processor
from echojax.training.results import package_versions


@dataclass
class Tally:
    """What came of a reader's inputs."""

    inputs: int = 0
    parsed: int = 0
    refused: int = 0
    failed: int = 0
    slowest_seconds: float = 0.0
    peak_growth_bytes: int = 0  # how much the process's peak rose while this reader ran
    failures: list[str] = field(default_factory=list)


def words(tally: Tally) -> str:
    """Return what came of a reader's inputs, in a line and one for each failure."""
    words = f"{tally.inputs} inputs, {tally.parsed} parsed, {tally.refused} refused"
    failures = "".join(f"\n  {line}" for line in tally.failures[:10])
    return f"{words}, {tally.failed} FAILED{failures}" if tally.failed else words


def report(command: str, tallies: dict[str, Tally], seconds: float) -> dict[str, Any]:
    """Return the report, JSON-able."""
    return {
        "command": command,
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": cores()},
        "versions": package_versions(),
        "limits": {"seconds_an_input": INPUT_SECONDS, "bytes": INPUT_BYTES},
        "summary": {
            **{
                name: sum(getattr(tally, name) for tally in tallies.values())
                for name in ("inputs", "parsed", "refused", "failed")
            },
            "slowest_seconds": max(tally.slowest_seconds for tally in tallies.values()),
            "peak_bytes": peak_bytes(),
            "seconds": round(seconds, 1),
        },
        "readers": {name: asdict(tally) for name, tally in tallies.items()},
    }


def table(tallies: dict[str, Tally]) -> Table:
    """Return what came of all inputs, a reader a row."""
    table = Table("reader", "inputs", "parsed", "refused", "failed", "slowest ms", "peak + MiB")
    for name, one in tallies.items():
        counts = map(str, (one.inputs, one.parsed, one.refused, one.failed))
        slowest = f"{1000 * one.slowest_seconds:.0f}"
        table.add_row(name, *counts, slowest, f"{one.peak_growth_bytes / 2**20:.0f}")
    return table
