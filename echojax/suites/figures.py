"""The figures of a data set: scores, differences, history lengths, score against time."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from echojax.evaluation.metrics import SHOWN
from echojax.report.figures import (
    BLUE,
    FAINT,
    GREY,
    ORANGE,
    Picture,
    draw_dots,
    draw_scores,
    drawing_style,
    legend_above,
    name_lengths,
    new_figure,
)
from echojax.report.learned_figures import learned_pictures
from echojax.report.run_record import read_analysis
from echojax.suites.results import RunResult
from echojax.suites.tables import FEW

_Row = dict[str, Any]


@drawing_style()
def pictures(frame: pl.DataFrame, data: str, reference: str) -> list[Picture]:
    """Draw what there is of a data set so far, from the frame of ``score_frame``."""
    scored = frame.drop_nulls("ndcg@10")
    main = scored.filter(table="main").rows(named=True)
    drawn = []
    if main:
        systems = [
            (
                row["variant"],
                row | {"interval": {metric: _interval(row, metric) for metric in SHOWN}},
            )
            for row in main
        ]
        drawn.append(
            Picture(
                f"{data}-scores",
                f"Test scores on {data}",
                f"Mean over seeds with 95 % bootstrap intervals over users; {reference} is "
                "highlighted. Overlapping intervals do not mean that two rows are equal; the "
                "paired test of their difference decides.",
                draw_scores(0.8 + 0.24 * len(main), systems, reference),
            )
        )
    for table, name, title in (
        ("main", "differences", "Difference to"),
        ("ablation", "ablation", "Ablation of"),
    ):
        tested = scored.filter(table=table).drop_nulls("difference_p").rows(named=True)
        if tested:
            drawn.append(
                Picture(
                    f"{data}-{name}",
                    f"{title} {reference} on {data}",
                    "Differences in NDCG@10, paired by user, with 95 % intervals; to the right of "
                    f"the line a row is better than {reference}. Filled marks: p below .05 after "
                    "Holm's correction.",
                    _draw_differences(tested),
                )
            )
    by_length = scored.filter(
        pl.col("variant").is_in([row["variant"] for row in main]), table="by length"
    )
    # Of a single row or bin there is nothing to compare.
    if min(by_length[name].n_unique() for name in ("variant", "from")) > 1:
        drawn.append(
            Picture(
                f"{data}-by-length",
                f"NDCG@10 by length of the history on {data}",
                f"{reference} with 95 % intervals over users, and the best of the other rows; all "
                "other rows are grey. Below each range is its number of test examples.",
                _draw_by_length(main, by_length, reference),
            )
        )
    timed = [row for row in main if row["seconds_to_best"]]
    if len(timed) > 1:
        drawn.append(
            Picture(
                f"{data}-time",
                f"Score against training time on {data}",
                "Seconds in training steps up to the best epoch, mean over seeds, on the machines "
                "named on this page.",
                _draw_time(timed, reference),
            )
        )
    return drawn


def learned(run: RunResult | None, data: str, reference: str) -> list[Picture]:
    """Draw what the reference's first run has learned, where its folder kept an analysis."""
    if run is None or run.analysis is None:
        return []
    max_len = run.config["max_len"]
    with tempfile.NamedTemporaryFile() as file:
        file.write(run.analysis)
        file.flush()
        analysis = read_analysis(Path(file.name), max_len)
    return [
        Picture(
            f"{data}-{one.name}",
            f"{one.title}: {reference} on {data}",
            f"{one.caption} First seed.",
            one.figure,
        )
        for one in learned_pictures(analysis, max_len)
    ]


def _interval(row: _Row, metric: str) -> tuple[float, float] | None:
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return None if low is None else (low, high)


def _draw_differences(rows: list[_Row]) -> Figure:
    figure, (axes,) = new_figure(0.8 + 0.24 * len(rows))
    axes.axvline(0, color=BLUE, linewidth=1.2)
    draw_dots(
        axes,
        [row["variant"] for row in rows],
        [row["difference_mean"] for row in rows],
        [_interval(row, "difference") for row in rows],
        [GREY] * len(rows),
        filled=[row["difference_p_holm"] < 0.05 for row in rows],
    )
    axes.set_xlabel("difference in NDCG@10")
    return figure


def _draw_by_length(main: list[_Row], by_length: pl.DataFrame, reference: str) -> Figure:
    """Draw the reference, the best other row, and the rest."""
    enough = by_length.filter(pl.col("examples") >= FEW)
    bins = enough.unique("from", keep="first", maintain_order=True)
    places = {start: place for place, start in enumerate(bins["from"])}
    rows = [row for row in main if row["variant"] in set(by_length["variant"])]
    peers = [row for row in rows if row["variant"] != reference]
    best = max(peers, key=lambda row: row["ndcg@10"], default=None)
    figure, (axes,) = new_figure(3.4)
    for row in sorted(rows, key=lambda row: (row["variant"] == reference, row is best)):
        name = row["variant"]
        points = enough.filter(variant=name).rows(named=True)
        x = np.array([places[one["from"]] for one in points], float)
        means = [one["ndcg@10"] for one in points]
        if name != reference and row is not best:
            axes.plot(x, means, color=FAINT, linewidth=1.0)
            continue
        colour, shift = (BLUE, -0.06) if name == reference else (ORANGE, 0.06)
        axes.plot(
            x + shift, means, color=colour, label=name, marker="o", markersize=4, linewidth=1.6
        )
        for place, one in zip(x + shift, points, strict=True):
            if interval := _interval(one, "ndcg@10"):
                axes.plot([place, place], interval, color=colour, linewidth=1.2)
    name_lengths(axes, bins.select("from", "to", "examples").rows())
    axes.set_ylabel("NDCG@10")
    legend_above(axes)
    return figure


def _draw_time(rows: list[_Row], reference: str) -> Figure:
    """Draw NDCG@10 against the time up to the best epoch."""
    points = {}
    figure, (axes,) = new_figure(3.4)
    for row in rows:
        x, y = points[row["variant"]] = row["seconds_to_best"], row["ndcg@10"]
        colour = BLUE if row["variant"] == reference else GREY
        if interval := _interval(row, "ndcg@10"):
            axes.plot([x, x], interval, color=colour, linewidth=1)
        axes.plot(x, y, "o", color=colour, markersize=6, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds of training to the best epoch")
    axes.set_ylabel("NDCG@10")
    _name_points(axes, points)
    return figure


def _name_points(axes: Axes, points: dict[str, tuple[float, float]]) -> None:
    """Write names next to points, where there is room, and none upon another."""
    times = [x for x, _ in points.values()]
    middle = math.sqrt(min(times) * max(times))
    height = 185 / axes.get_ylim()[1]  # printer's points of the axes a unit of y
    last = {True: -math.inf, False: -math.inf}
    for name, (x, y) in sorted(points.items(), key=lambda item: item[1][1]):
        left = x > middle
        place = last[left] = max(y * height, last[left] + 9)
        axes.annotate(
            name, (x, y), (-6 if left else 6, place - y * height), textcoords="offset points",
            fontsize=8, ha="right" if left else "left", va="center",
        )  # fmt: skip
