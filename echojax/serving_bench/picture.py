"""Cost against length: log axes, where a straight line's slope is the power of the length."""

import io

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from echojax.measured_folder import Results
from echojax.reporting.drawing import FAINT, GREY, INK, drawing_style
from echojax.serving_bench.measure import Row
from echojax.serving_bench.tables import rows_of

_COLOURS = (
    "#0072b2", "#d55e00", "#00805c", "#a8508a", "#8a6d00", "#5b5fc7", "#7a4a2b", "#606970",
    "#b0203c",
)  # fmt: skip
_MARKERS = "os^Dv<>PX"
_PAPER = {INK: "#1c2024", FAINT: "#c9d0d6", GREY: "#808890"}


def cost_against_length(results: Results) -> bytes | None:
    """Return a PNG, a panel a batch; ``None`` where there are fewer than two lengths."""
    rows = [row for row in results["cases"] if row["length"] and row["p50_seconds"]]
    lengths = sorted({row["length"] for row in rows})
    if len(lengths) < 2:
        return None
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    names = list(dict.fromkeys(row["model"] for row in rows))
    with drawing_style():
        style = {k: _PAPER[v] for k, v in matplotlib.rcParams.items() if v in list(_PAPER)}
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=(9.0, 4.8))
        panels = figure.subplots(1, len(batches), squeeze=False, sharey=True).ravel()
        for axes, batch in zip(panels, batches, strict=True):
            _draw(axes, [rows_of(rows, kind, batch) for kind in ("encode", "event")], names)
            axes.set_title(f"{batch} {'history' if batch == 1 else 'histories'}")
            axes.set_xlabel("items of a history")
            axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
            axes.set_xticks([], minor=True)
            _guides(axes, lengths, [row["p50_seconds"] for row in rows if row["batch"] == batch])
        times = [1e3 * row["p50_seconds"] for row in rows]
        panels[0].set_ylim(min(times) / 1.5, 1.5 * max(times))  # of all panels
        panels[0].set_ylabel("ms, median")
        handles = {
            label: handle
            for axes in panels
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside right center")
        title = "Latency against length: whole histories (solid), one more event (dashed)"
        figure.suptitle(title, x=0.01, ha="left")
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format="png", dpi=150, transparent=False, metadata={"Software": None}
        )
    return buffer.getvalue()


def _draw(axes: Axes, kinds: list[list[Row]], names: list[str]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for rows, dashes in zip(kinds, ("-", "--"), strict=True):
        for place, name in enumerate(names):
            line = sorted((r["length"], 1e3 * r["p50_seconds"]) for r in rows if r["model"] == name)
            if line:
                axes.plot(
                    *zip(*line, strict=True), color=_COLOURS[place % len(_COLOURS)],
                    marker=_MARKERS[place % len(_MARKERS)], markersize=4, linewidth=1.5,
                    linestyle=dashes, label=f"{name}{', event' if dashes == '--' else ''}",
                )  # fmt: skip
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,g}")


def _guides(axes: Axes, lengths: list[int], seconds: list[float]) -> None:
    """Draw what linear and quadratic growth look like, from amid the panel's times."""
    start = 1e3 * (min(seconds) * max(seconds)) ** 0.5
    for name, power, dots in (("linear", 1, (0, (1, 2))), ("quadratic", 2, (0, (4, 2, 1, 2)))):
        ends = [start, start * (lengths[-1] / lengths[0]) ** power]
        axes.plot([lengths[0], lengths[-1]], ends, color=_PAPER[GREY], linewidth=0.9,
                  linestyle=dots, label=name)  # fmt: skip
