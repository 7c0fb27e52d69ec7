"""What all pictures share: inline SVG whose colours are the page's CSS variables.

Pictures are drawn in stand-in colours, which become ``var(--...)``: one picture then suits a light
and a dark page. Text stays text, in the page's font.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, BLUE, ORANGE, GREY = (f"#00000{i}" for i in range(1, 6))
_VARIABLES = {
    INK: "ink",
    FAINT: "faint",
    BLUE: "blue",
    ORANGE: "orange",
    GREY: "grey",
}

PAPER = {  # what the page's variables are on a light page
    "ink": "#1c2024",
    "faint": "#c9d0d6",
    "blue": "#0072b2",
    "orange": "#d55e00",
    "grey": "#808890",
}

_STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "DejaVu Sans",  # always there; wider than the page's font, so labels fit
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
    "savefig.transparent": True,
}


@contextmanager
def drawing_style() -> Iterator[None]:
    """Draw in the page's style inside; leave matplotlib's settings as they were."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure as wide as a column of the page, ``height`` inches high, and its axes.

    Axes of one column share x, axes of one row share y.
    """
    figure = Figure(figsize=(5.2, height))
    axes = figure.subplots(rows, columns, squeeze=False, sharex="col", sharey="row")
    return figure, axes.ravel().tolist()


def legend_above(axes: Axes) -> None:
    """Put the legend over the axes, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=2)


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as inline SVG.

    Args:
        figure: drawn within ``drawing_style``.
        name: keeps ids of several pictures on one page apart.
        description: what is to be seen, for those who cannot see it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the only ids that pictures could share
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)


def on_paper(svg: str) -> str:
    """Return what ``to_svg`` returned as a file of its own, on white."""
    for name, colour in PAPER.items():
        svg = svg.replace(f"var(--{name})", colour)
    start = svg.index(">") + 1
    return f'{svg[:start]}<rect width="100%" height="100%" fill="white"/>{svg[start:]}'
