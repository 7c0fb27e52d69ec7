"""The page on a comparison of selective scans, from the JSON file that the benchmark wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from echojax.files import read_record
from echojax.report.figures import (
    LINE_COLOURS,
    LINE_MARKERS,
    Picture,
    drawing_style,
    new_figure,
)
from echojax.report.pages import render
from echojax.report.tables import Column, Table, number

_PASSES = ("forward", "forward+backward")
_SIZES = ("batch", "length", "channels", "states")
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
    which: str = msgspec.field(name="pass")

    @property
    def case(self) -> tuple[int, int, int, int, str]:
        """Size and dtype."""
        return self.batch, self.length, self.channels, self.states, self.dtype


class Comparison(msgspec.Struct):
    """What the page takes from the file."""

    command: str
    date: str
    machine: dict[str, Any]
    rows: list[Row]


def scan_page(path: Path, **navigation: Any) -> str:
    """Return the page; ``UserError`` where the file is missing, damaged or not a comparison."""
    comparison = read_record(path, Comparison)
    machine, rows = comparison.machine, comparison.rows
    with drawing_style():
        drawn = [_against(rows, axis) for axis in ("length", "batch")]
    about = {"command": comparison.command, **machine}
    return render(
        "page.html",
        title="Selective scans compared",
        subtitle=f"{machine.get('device')} · {machine.get('processor')} · {comparison.date}",
        tiles=[],
        pictures=[picture for picture in drawn if picture is not None],
        tables=[_table([r for r in rows if r.case == c]) for c in _distinct(r.case for r in rows)],
        notes=[_NOTE],
        facts={"Machine and versions": about},
        **navigation,
    )


def _distinct(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))


def _table(rows: Sequence[Row]) -> Table:
    """Return a line an implementation, of one size and dtype."""
    own = {(row.implementation, row.which): row for row in rows}
    lines: list[list[Any]] = []
    for name in _distinct(row.implementation for row in rows):
        pair = [own.get((name, which)) for which in _PASSES]
        times = [row and row.median_seconds and 1e3 * row.median_seconds for row in pair]
        memory = pair[1] and pair[1].memory_bytes
        lines.append([name, *times, memory and memory / 2**20])
    columns = [
        Column(header, show=number) for header in ("", "forward ms", "with backward ms", "MiB")
    ]
    title = ", ".join(f"{key} {value:,}" for key, value in zip(_SIZES, rows[0].case, strict=False))
    return Table(columns, lines, f"{title}, {rows[0].dtype}")


def _against(rows: Sequence[Row], axis: str) -> Picture | None:
    """Draw time against one size where the others are equal; ``None`` where there is one value."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        fixed = tuple(getattr(row, name) for name in (*_SIZES, "dtype") if name != axis)
        groups.setdefault(fixed, []).append(row)
    fixed, shown = max(
        groups.items(), key=lambda g: len({getattr(row, axis) for row in g[1]}), default=((), [])
    )
    if len({getattr(row, axis) for row in shown}) < 2:
        return None
    figure, panels = new_figure(3.6, columns=2)
    for axes, which in zip(panels, _PASSES, strict=True):
        for place, name in enumerate(_distinct(row.implementation for row in shown)):
            line = sorted(
                (getattr(row, axis), 1e3 * row.median_seconds)
                for row in shown
                if (row.implementation, row.which) == (name, which) and row.median_seconds
            )
            style = place % len(LINE_COLOURS)
            axes.plot(
                *zip(*line, strict=True),
                color=LINE_COLOURS[style],
                marker=LINE_MARKERS[style],
                markersize=4,
                label=name,
            )
        axes.set(title=which, xlabel=axis, xscale="log", yscale="log")
    panels[0].set_ylabel("ms")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    sizes = [name for name in (*_SIZES, "dtype") if name != axis]
    caption = ", ".join(f"{name} {value}" for name, value in zip(sizes, fixed, strict=True))
    return Picture(f"time-against-{axis}", f"Time against {axis}", f"{caption}.", figure)
