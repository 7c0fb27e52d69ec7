"""The page about a comparison of selective scans, from the JSON file of the benchmark."""

from base64 import b64encode
from glob import escape
from pathlib import Path
from typing import Any

import msgspec

from echojax.files import read_record
from echojax.report.pages import render
from echojax.report.tables import Column, Table, number

_NOTE = (
    "Times are medians of compiled programs until their results are there; memory is the compiled "
    "program's arguments, outputs and temporary arrays, with the backward pass."
)


class Row(msgspec.Struct):
    """A program of the comparison."""

    implementation: str
    batch: int
    length: int
    channels: int
    states: int
    dtype: str
    median_seconds: float | None
    memory_bytes: int | None
    which: str = msgspec.field(name="pass")  # "forward", "forward+backward", or of errors only
    decays: str = "layer"


class Comparison(msgspec.Struct):
    """The part of the file that the page shows."""

    command: str
    date: str
    machine: dict[str, Any]
    rows: list[Row]


def scan_page(path: Path, **navigation: Any) -> str:
    """Return the page, with the figures in the folder of the file."""
    comparison = read_record(path, Comparison)
    machine = comparison.machine
    return render(
        "scans.html",
        title="Selective scans compared",
        subtitle=f"{machine.get('device')} · {machine.get('processor')} · {comparison.date}",
        figures={
            file.stem: f"data:image/png;base64,{b64encode(file.read_bytes()).decode()}"
            for file in sorted(path.parent.glob(f"{escape(path.stem)}-against-*.png"))
        },
        table=_table(comparison.rows),
        facts={"Machine and versions": {"command": comparison.command, **machine}},
        **navigation,
    )


def _table(rows: list[Row]) -> Table:
    """Return a table with a row per implementation, size and dtype."""
    lines: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row.which not in ("forward", "forward+backward") or row.decays != "layer":
            continue
        case = row.implementation, row.batch, row.length, row.channels, row.states, row.dtype
        lines.setdefault(case, {})[row.which] = row
    shown = []
    for case, passes in lines.items():
        pair = passes.get("forward"), passes.get("forward+backward")
        times = [row and row.median_seconds and 1e3 * row.median_seconds for row in pair]
        memory = pair[1] and pair[1].memory_bytes
        shown.append([*case, *times, memory and memory / 2**20])
    sizes = [Column(name, show=",d") for name in ("batch", "length", "channels", "states")]
    values = [Column(name, show=number) for name in ("forward ms", "with backward ms", "MiB")]
    return Table(["", *sizes, Column("dtype", "left"), *values], shown, notes=[_NOTE])
