"""Projected step time against devices: log axes, a panel a catalogue, a line an accelerator."""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#00805c")


def draw(figures: dict[str, Any]) -> bytes:
    """Return the PNG of the strong scaling in ``scaling.json``."""
    rows = [row for row in figures["projected"] if row["scaling"] == "strong"]
    catalogues = list(dict.fromkeys(row["catalogue"] for row in rows))
    names = list(dict.fromkeys(row["accelerator"] for row in rows))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(4.6 * len(catalogues), 3.8), layout="constrained")
        panels = figure.subplots(1, len(catalogues), squeeze=False)[0]
        for panel, catalogue in zip(panels, catalogues, strict=True):
            shown = [row for row in rows if row["catalogue"] == catalogue]
            for name, colour in zip(names, _COLOURS, strict=True):
                for shards in dict.fromkeys(row["item_shards"] for row in shown):
                    line = [row for row in shown if (row["accelerator"], row["item_shards"])
                            == (name, shards)]  # fmt: skip
                    panel.plot(
                        [row["devices"] for row in line], [1e3 * row["step"] for row in line],
                        color=colour, linestyle="-" if shards == 1 else "--", marker="o",
                        markersize=3, label=name + (f", table in {shards}" if shards > 1 else ""),
                    )  # fmt: skip
            panel.set(xscale="log", yscale="log", title=catalogue, xlabel="devices")
            ticks = sorted({row["devices"] for row in shown})[::3]
            panel.set_xticks(ticks, [str(tick) for tick in ticks])
            panel.set_xticks([], minor=True)
            panel.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
            panel.yaxis.set_minor_formatter(lambda y, _: "")
            panel.grid(axis="y", color="#dde2e6", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
            panel.legend(frameon=False, fontsize=8)
        panels[0].set_ylabel("projected ms a step")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
