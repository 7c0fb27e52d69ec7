"""The page and the picture of a benchmark: Markdown tables, and lines on a logarithmic axis."""

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure


def page(document: Any, file: str, heading: str, *parts: str) -> str:
    """Return a Markdown page: where the numbers of a ``Document`` come from, then the parts."""
    machine = document.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    origin = (
        f"`{document.command}`, {document.date}, {machine['device']} ({machine['platform']}), "
        f"{machine['cores']} cores of {machine['processor']}, {packages}. The numbers are in "
        f"[{file}]({file}){'' if document.finished else '; not finished'}."
    )
    return "\n\n".join([f"# {heading}", origin, *parts]) + "\n"


def digits(value: float | None) -> str:
    """Return a number with three digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table, its columns aligned so that it can be read as it is."""
    lines = [[str(cell) for cell in line] for line in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    return "\n".join(
        [shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *shown[1:]]
    )


class Panel(NamedTuple):
    """Lines of one panel of a picture: points by label, and the axes' names."""

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]


def figure(panels: Sequence[Panel], *, columns: int, log_y: bool = True) -> bytes | None:
    """Return a PNG of lines on a logarithmic x axis; ``None`` where no line has two points.

    Labels have the same colour in all panels; a line whose label ends with "*" is dashed.
    """
    if not any(len(line) > 1 for panel in panels for line in panel.lines.values()):
        return None
    labels = list(dict.fromkeys(label for panel in panels for label in panel.lines))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        rows = math.ceil(len(panels) / columns)
        drawn = Figure(figsize=(1.5 + 3.0 * columns, 0.6 + 2.6 * rows))
        grid = drawn.subplots(rows, columns, squeeze=False).ravel()
        handles: dict[str, Any] = {}
        for axes, panel in zip(grid, panels, strict=False):
            for label, line in panel.lines.items():
                place = labels.index(label)
                (handles[label],) = axes.plot(
                    *zip(*sorted(line), strict=True), color=_COLOURS[place % len(_COLOURS)],
                    marker="os^Dv<>PX"[place % 9], linestyle="--" if label.endswith("*") else "-",
                )  # fmt: skip
            axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y, xscale="log")
            ticks = sorted({x for line in panel.lines.values() for x, _ in line})
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.set_xticks([], minor=True)
            if log_y:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
            else:
                axes.set_ylim(bottom=0)
        for axes in grid[len(panels) :]:
            axes.remove()
        shown = {label.removesuffix("*"): handle for label, handle in handles.items()}
        drawn.legend(shown.values(), shown.keys(), loc="outside right center")
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


_COLOURS = (
    "#0072b2", "#d55e00", "#00805c", "#a8508a", "#8a6d00", "#5b5fc7", "#7a4a2b", "#606970",
    "#b0203c",
)  # fmt: skip
_STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.grid": True, "axes.grid.axis": "y",
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": "#c9d0d6",
    "lines.markersize": 4, "lines.linewidth": 1.5, "legend.frameon": False,
    "figure.constrained_layout.use": True,
}  # fmt: skip
