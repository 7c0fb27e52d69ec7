"""Time and memory against length and batch: log axes, one line an implementation."""

import io
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from echojax.measured_folder import Results
from echojax.reporting.drawing import FAINT, GREY, INK, drawing_style, new_figure, to_svg
from echojax.scan_comparison.measure import Row
from echojax.scan_comparison.programs import PASSES
from echojax.scan_comparison.settings import Shape

# Light and dark colours of the lines; colour and marker both tell them apart.
LINES = (
    ("#0072b2", "#56b4e9"), ("#d55e00", "#f0944d"), ("#00805c", "#2fbf8f"), ("#a8508a", "#d98bbd"),
    ("#8a6d00", "#e0c04a"), ("#5b5fc7", "#9ea2f2"), ("#7a4a2b", "#c99872"), ("#606970", "#a3adb5"),
    ("#b0203c", "#ff7f93"),
)  # fmt: skip
_MARKERS = "os^Dv<>PX"
# In SVG a stand-in becomes a CSS variable, so that one picture suits a light and a dark page.
_STAND_INS = [f"#0001{place:02x}" for place in range(len(LINES))]
_PAPER = {INK: "#1c2024", FAINT: "#c9d0d6", GREY: "#808890"}


class Picture(NamedTuple):
    """A picture with the words around it; ``svg`` takes its colours from the page."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes


def pictures(results: Results) -> list[Picture]:
    """Draw what the measured shapes allow: a line needs two lengths or batches."""
    return [
        picture
        for name, title, axis, value in (
            ("time-against-length", "Time against length", "length", "median_seconds"),
            ("time-against-batch", "Time against batch", "batch", "median_seconds"),
            ("memory-against-length", "Memory against length", "length", "memory_bytes"),
        )
        if (picture := _picture(results, name, title, axis, value)) is not None
    ]


def sweep(rows: list[Row], axis: str) -> list[Row]:
    """Return the rows whose shapes differ in one size alone, of the most values of it."""
    fixed = [name for name in Shape._fields if name != axis]
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in fixed), []).append(row)
    values = {key: {row[axis] for row in group} for key, group in groups.items()}
    longest = max(groups, key=lambda key: len(values[key]), default=None)
    return [] if longest is None or len(values[longest]) < 2 else groups[longest]


def _picture(results: Results, name: str, title: str, axis: str, value: str) -> Picture | None:
    rows = sweep([row for row in results["rows"] if row[value] is not None], axis)
    if not rows:
        return None
    fixed = [f"{key} {rows[0][key]:,}" for key in Shape._fields if key != axis]
    caption = f"{', '.join(fixed)}. " + (
        "Median of the repeats; the dashed line is the measured roofline."
        if value == "median_seconds"
        else "Arguments, outputs and temporary arrays of the compiled program."
    )
    names = list(results["settings"]["implementations"])
    with drawing_style():
        svg = to_svg(_draw(rows, axis, value, names, _STAND_INS), name, f"{title}. {caption}")
    for place, stand_in in enumerate(_STAND_INS):
        svg = svg.replace(stand_in, f"var(--line-{place})")
    return Picture(name, title, caption, svg, _png(rows, axis, value, names, title))


def _png(rows: list[Row], axis: str, value: str, names: list[str], title: str) -> bytes:
    with drawing_style():
        style = {k: _PAPER[v] for k, v in matplotlib.rcParams.items() if v in list(_PAPER)}
        matplotlib.rcParams.update(style)
        figure = _draw(rows, axis, value, names, [light for light, _ in LINES], _PAPER[GREY])
        figure.suptitle(title, x=0.01, ha="left")
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format="png", dpi=150, transparent=False, metadata={"Software": None}
        )
    return buffer.getvalue()


def _draw(
    rows: list[Row], axis: str, value: str, names: list[str], colours: list[str], floor: str = GREY
) -> Figure:
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    figure, panels = new_figure(0.9 + 2.6 * len(dtypes), rows=len(dtypes), columns=2)
    places = [(dtype, which) for dtype in dtypes for which in PASSES]
    for axes, (dtype, which) in zip(panels, places, strict=True):
        shown = [row for row in rows if (row["dtype"], row["pass"]) == (dtype, which)]
        for place, name in enumerate(names):
            line = sorted((r[axis], r[value]) for r in shown if r["implementation"] == name)
            style = place % len(LINES)
            if line:
                axes.plot(
                    *zip(*_in_units(line, value), strict=True), color=colours[style], label=name,
                    marker=_MARKERS[style], markersize=4, linewidth=1.5,
                )  # fmt: skip
        if value == "median_seconds":
            least = sorted({(row[axis], row["floor_seconds"]) for row in shown})
            axes.plot(*zip(*_in_units(least, value), strict=True), color=floor, label="roofline",
                      linewidth=1, linestyle=(0, (4, 3)))  # fmt: skip
        axes.set_title(f"{which}, {dtype}")
        _log_axes(axes, sorted({row[axis] for row in rows}))
    for axes in panels[::2]:
        axes.set_ylabel("ms" if value == "median_seconds" else "MiB")
    for axes in panels[-2:]:
        axes.set_xlabel(axis)
    handles: dict[str, Any] = {}
    for axes in panels:
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=3)
    return figure


def _in_units(line: list[tuple[int, float]], value: str) -> list[tuple[int, float]]:
    """Return ms for seconds, MiB for bytes."""
    unit = 1e3 if value == "median_seconds" else 2**-20
    return [(x, unit * y) for x, y in line]


def _log_axes(axes: Axes, ticks: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.yaxis.set_minor_formatter(lambda y, _: "")
