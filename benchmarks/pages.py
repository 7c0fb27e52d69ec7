"""The page of a benchmark, in Markdown, and its picture: lines on a logarithmic axis."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from echojax.report.figures import LINE_COLOURS, LINE_MARKERS, drawing_style, small_png
from echojax.report.tables import Table, in_markdown


def page(document: Any, file: str, heading: str, *parts: str | Table) -> str:
    """Return a Markdown page: the origin of the numbers of a ``Document``, then the parts."""
    machine = document.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    text = [
        f"# {heading}",
        f"`{document.command}`, {document.date}, {machine['device']} ({machine['platform']}), "
        f"{machine['cores']} cores of {machine['processor']}, {packages}. The numbers are in "
        f"[{file}]({file}){'' if document.finished else '; not finished'}.",
    ]
    for part in parts:
        if isinstance(part, str):
            text.append(part)
        else:
            text += [f"## {part.title}", part.markdown(), *map(in_markdown, part.notes)]
    return "\n\n".join(text) + "\n"


class Panel(NamedTuple):
    """One panel of a picture: its lines, which are points by label, and the names of its axes.

    A point is (x, y), or (x, y, low, high) with the spread of y.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, ...]]]


def picture(panels: Sequence[Panel], *, columns: int, log_y: bool = True) -> bytes | None:
    """Return a PNG of lines on a logarithmic x axis; ``None`` if no line has two points.

    A label has the same colour in all panels; a line whose label ends with "*" is dashed. A line
    "NAME on MACHINE" has the colour of NAME, is dotted and has hollow markers. Spread is shaded.
    """
    if not any(len(line) > 1 for panel in panels for line in panel.lines.values()):
        return None
    labels = (label.partition(" on ")[0] for panel in panels for label in panel.lines)
    names = list(dict.fromkeys(labels))
    handles: dict[str, Any] = {}
    with drawing_style():
        rows = math.ceil(len(panels) / columns)
        figure = Figure(figsize=(1.5 + 3.0 * columns, 0.6 + 2.6 * rows))
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=True):
            for label, line in panel.lines.items():
                name, _, machine = label.partition(" on ")
                style = names.index(name) % len(LINE_COLOURS)
                look = LINE_MARKERS[style] + (":" if machine else "--" if "*" in name else "-")
                x, y, *spread = zip(*sorted(line), strict=True)
                fill = "white" if machine else LINE_COLOURS[style]
                colour = {"color": LINE_COLOURS[style]}
                (handle,) = axes.plot(x, y, look, markersize=4, markerfacecolor=fill, **colour)
                if spread:
                    axes.fill_between(x, *spread, alpha=0.25, linewidth=0, **colour)
                handles[label.removesuffix("*")] = handle
            axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y, xscale="log")
            ticks = sorted({x for line in panel.lines.values() for x, *_ in line})
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.set_xticks([], minor=True)
            if log_y:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
            else:
                axes.set_ylim(bottom=0)
        figure.legend(handles.values(), handles.keys(), loc="outside right center")
        return small_png(figure, dpi=120)
