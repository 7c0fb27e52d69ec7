"""Measured step time against simulated devices: a line for the same batch, one for more rows."""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00")


def draw(figures: dict[str, Any]) -> bytes:
    """Return the PNG of what ``scaling.json`` holds of the small catalogue."""
    rows = [row for row in figures["measured"] if row["items"] == figures["sizes"]["items"]]
    cases = list(dict.fromkeys(row["shows"] for row in rows))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(5, 3.6), layout="constrained")
        panel = figure.subplots()
        for case, colour in zip(cases, _COLOURS, strict=True):
            line = [row for row in rows if row["shows"] == case]
            panel.plot(
                [row["devices"] for row in line],
                [1e3 * row["seconds"] for row in line],
                color=colour, marker="o", label=case,
            )  # fmt: skip
        cores = figures["machine"]["cores"]
        panel.set(xscale="log", xlabel=f"simulated devices on {cores} cores", ylabel="ms a step")
        ticks = sorted({row["devices"] for row in rows})
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.set_xticks([], minor=True)
        panel.set_ylim(bottom=0)
        panel.grid(axis="y", color="#dde2e6", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
