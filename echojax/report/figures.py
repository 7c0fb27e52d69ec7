"""The style of all figures, their formats (inline SVG, SVG and PNG files), and shared elements.

Figures are drawn in the colours of a light page. In inline SVG, these are replaced by the page's
CSS variables, so that the same figure fits a light and a dark page; text remains text.
"""

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image  # a requirement of matplotlib

from echojax.command_line import printable
from echojax.evaluation.metrics import SHOWN
from echojax.report.pages import COLOURS
from echojax.report.tables import length_range

_LIGHT = {name: light for name, (light, _) in COLOURS.items()}
INK, FAINT, GREY = _LIGHT["ink"], _LIGHT["faint"], _LIGHT["grey"]
BLUE, ORANGE = _LIGHT["blue"], _LIGHT["orange"]
# For figures with many lines, which differ in colour and marker.
LINE_COLOURS = [BLUE, ORANGE, *list(_LIGHT.values())[-7:]]
LINE_MARKERS = "os^Dv<>PX"

_STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "DejaVu Sans",  # always installed, and wider than the page's font
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.4,
    "figure.constrained_layout.use": True,
}


@contextmanager
def drawing_style() -> Iterator[None]:
    """Set the style of the pages inside the context, and restore matplotlib's settings."""
    with matplotlib.rc_context(), warnings.catch_warnings(), np.errstate(invalid="ignore"):
        # About letters that the font lacks and names that do not fit; these are drawn anyway.
        warnings.simplefilter("ignore", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


@dataclass(frozen=True)
class Picture:
    """A figure with its title and caption."""

    name: str  # of its file, without a suffix; it also makes ids unique on a page
    title: str  # above it
    caption: str  # below it; title and caption are the description for screen readers
    figure: Figure  # drawn within ``drawing_style``

    def inline(self) -> Markup:
        """Return SVG for a page, in the page's colours."""
        svg = self._svg
        for name, colour in _LIGHT.items():
            svg = svg.replace(colour, f"var(--{name})")
        return Markup(svg)

    def svg(self) -> bytes:
        """Return the content of an SVG file, on white."""
        svg = self._svg
        start = svg.index(">") + 1
        return f'{svg[:start]}<rect width="100%" height="100%" fill="white"/>{svg[start:]}'.encode()

    def png(self) -> bytes:
        """Return the content of a PNG file, on white, under the title."""
        with drawing_style():
            self.figure.suptitle(self.title, x=0.01, ha="left")
            content = small_png(self.figure, dpi=150)
            self.figure.suptitle("")
        return content

    @cached_property
    def _svg(self) -> str:
        buffer = io.StringIO()
        metadata = {"Date": None, "Creator": None}
        with drawing_style(), matplotlib.rc_context({"svg.hashsalt": self.name}):
            self.figure.savefig(buffer, format="svg", dpi=150, metadata=metadata, transparent=True)
        svg = buffer.getvalue()
        svg = printable(svg[svg.index("<svg") :])
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # these ids could occur in several pictures
        label = escape(printable(f"{self.title}. {self.caption}"))
        return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def small_png(figure: Figure, dpi: int) -> bytes:
    """Return the content of a PNG file, on white, with as few colours as drawings need."""
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=dpi)
    picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(small := io.BytesIO(), format="png", optimize=True)
    return small.getvalue()


def new_figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure as wide as a column of a page, ``height`` inches high, and its axes.

    Axes in the same column share x, and axes in the same row share y.
    """
    figure = Figure(figsize=(5.2, height))
    axes = figure.subplots(rows, columns, squeeze=False, sharex="col", sharey="row")
    return figure, axes.ravel().tolist()


def legend_above(axes: Axes) -> None:
    """Put the legend above the axes."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=2)


def draw_dots(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
    colours: Sequence[str],
    *,
    filled: Sequence[bool] | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Draw a row for each name, the first on top: a dot at its value, and its interval.

    ``filled`` says which dots are filled (``None``: all). ``labels`` are drawn to the right of the
    intervals; x then begins at 0.
    """
    rows = range(len(names))
    ends = [one or (value, value) for value, one in zip(values, intervals, strict=True)]
    for row, value, (low, high), colour in zip(rows, values, ends, colours, strict=True):
        axes.plot([low, high], [row, row], color=colour, linewidth=2, clip_on=False)
        face = colour if filled is None or filled[row] else "none"
        (dot,) = axes.plot(value, row, "o", color=colour, markersize=6, clip_on=False, zorder=3)
        dot.set_markerfacecolor(face)
        if labels is not None:
            place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9}
            axes.annotate(labels[row], (high, row), (6, 0), **place)
    if labels is not None:
        axes.set_xlim(0, 1.32 * max(high for _, high in ends) or 1)
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.set_yticks(rows, [name.replace("$", r"\$") for name in names])  # not a formula
    axes.set_ylim(len(names) - 0.5, -0.5)


def draw_scores(
    height: float, systems: Iterable[tuple[str, Mapping[str, Any]]], highlighted: str
) -> Figure:
    """Draw HR@10 and NDCG@10 of named systems, with the ``interval`` of each by metric."""
    names, scores = zip(*systems, strict=True)
    figure, panels = new_figure(height, columns=2)
    for axes, metric in zip(panels, SHOWN, strict=True):
        draw_dots(
            axes,
            names,
            [one[metric] for one in scores],
            [one["interval"][metric] for one in scores],
            [BLUE if name == highlighted else GREY for name in names],
            labels=[f"{one[metric]:.3f}" for one in scores],
        )
        axes.set_xlabel(metric.upper())
    return figure


def name_lengths(axes: Axes, bins: Sequence[tuple[int, int | None, int]]) -> None:
    """Label x at 0, 1, ... with bins of history lengths, each (first, last, examples)."""
    labels = [f"{length_range(first, last)}\n{examples:,}" for first, last, examples in bins]
    axes.set_xticks(range(len(bins)), labels)
    middle, half = (len(bins) - 1) / 2, max(len(bins), 4) / 2 + 0.1
    axes.set_xlim(middle - half, middle + half)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("items in the history, and how many examples")
