"""The figures of a data set: scores, differences, history lengths, score against time."""

import math
import tempfile
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from echojax.files import write_json
from echojax.report.figures import (
    BLUE,
    FAINT,
    GREY,
    ORANGE,
    Picture,
    draw_dots,
    drawing_style,
    legend_above,
    name_lengths,
    new_figure,
)
from echojax.report.learned_figures import learned_pictures
from echojax.report.run_record import read_run
from echojax.suites.results import RunResult
from echojax.suites.scores import FEW, Difference
from echojax.suites.summary import ResultRow, Summary


def pictures(data: Summary, reference: str) -> list[Picture]:
    """Draw what there is of a data set so far."""
    scored = [row for row in data.rows if row.ndcg is not None]
    drawn = []
    if scored:
        drawn.append(
            Picture(
                f"{data.name}-scores",
                f"Test scores on {data.name}",
                f"Mean over seeds with 95 % bootstrap intervals over users; {reference} is set "
                "off. Overlapping intervals do not mean that two rows are equal: the paired test "
                "tells.",
                _draw_scores(scored, reference),
            )
        )
    for name, title, rows in (
        ("differences", "Difference to", data.rows),
        ("ablation", "Ablation of", data.ablation),
    ):
        tested = [row for row in rows if isinstance(row.difference, Difference)]
        if tested:
            drawn.append(
                Picture(
                    f"{data.name}-{name}",
                    f"{title} {reference} on {data.name}",
                    "NDCG@10, differences user by user with 95 % intervals; right of the line a "
                    f"row is better than {reference}. Filled: p below .05 after Holm's correction.",
                    _draw_differences(tested),
                )
            )
    # Of a single bin there is nothing to see.
    if rows := [row for row in data.rows if len(row.by_length) > 1]:
        drawn.append(
            Picture(
                f"{data.name}-by-length",
                f"NDCG@10 by length of the history on {data.name}",
                f"{reference} with 95 % intervals over users, and the best of the other rows; the "
                "rest in grey. Below each range stands its number of test examples.",
                _draw_by_length(rows, reference),
            )
        )
    timed = [row for row in scored if row.cost and row.cost["seconds_to_best"]]
    if len(timed) > 1:
        drawn.append(
            Picture(
                f"{data.name}-time",
                f"Score against training time on {data.name}",
                "Seconds in training steps up to the best epoch, mean over seeds, on the machines "
                "named on this page.",
                _draw_time(timed, reference),
            )
        )
    return drawn


def learned(data: Summary, reference: str) -> list[Picture]:
    """Draw what the reference's first run has learned, where its folder kept an analysis."""
    run = data.reference_run
    if run is None or run.analysis is None:
        return []
    return [
        Picture(
            f"{data.name}-{one.name}",
            f"{one.title}: {reference} on {data.name}",
            f"{one.caption} First seed.",
            one.figure,
        )
        for one in _learned_pictures(run, run.analysis)
    ]


def _learned_pictures(run: RunResult, analysis: bytes) -> list[Picture]:
    with tempfile.TemporaryDirectory() as name:  # a run folder again
        folder = Path(name)
        write_json(folder / "config.json", run.results["config"])
        (folder / "insight.npz").write_bytes(analysis)
        return learned_pictures(read_run(folder))


def _draw_scores(rows: list[ResultRow], reference: str) -> Figure:
    with drawing_style():
        figure, panels = new_figure(0.8 + 0.24 * len(rows), columns=2)
        for axes, metric in zip(panels, ("hr", "ndcg"), strict=True):
            found = [getattr(row, metric) for row in rows]
            draw_dots(
                axes,
                [row.name for row in rows],
                [one.mean for one in found],
                [one.interval for one in found],
                [BLUE if row.name == reference else GREY for row in rows],
                labels=[f"{one.mean:.3f}" for one in found],
            )
            axes.set_xlabel(f"{metric.upper()}@10")
    return figure


def _draw_differences(rows: list[ResultRow]) -> Figure:
    found = [row.difference for row in rows if isinstance(row.difference, Difference)]
    with drawing_style():
        figure, (axes,) = new_figure(0.8 + 0.24 * len(rows))
        axes.axvline(0, color=BLUE, linewidth=1.2)
        draw_dots(
            axes,
            [row.name for row in rows],
            [one.mean for one in found],
            [(one.low, one.high) for one in found],
            [GREY] * len(rows),
            filled=[one.p_holm < 0.05 for one in found],
        )
        axes.set_xlabel("difference in NDCG@10")
    return figure


def _draw_by_length(rows: list[ResultRow], reference: str) -> Figure:
    """Draw the reference, the best other row, and the rest."""
    bins = [one for one in rows[0].by_length if one.examples >= FEW]
    places = {one.first: place for place, one in enumerate(bins)}
    peers = [row for row in rows if row.name != reference]
    best = max(peers, key=lambda row: row.ndcg.mean if row.ndcg else 0, default=None)
    with drawing_style():
        figure, (axes,) = new_figure(3.4)
        for row in sorted(rows, key=lambda row: (row.name == reference, row is best)):
            points = [(places[one.first], one.ndcg) for one in row.by_length if one.first in places]
            means = [one.mean for _, one in points]
            if row.name != reference and row is not best:
                axes.plot([place for place, _ in points], means, color=FAINT, linewidth=1.0)
                continue
            colour, shift = (BLUE, -0.06) if row.name == reference else (ORANGE, 0.06)
            x = [place + shift for place, _ in points]
            axes.plot(
                x, means, color=colour, label=row.name, marker="o", markersize=4, linewidth=1.6
            )
            for place, (_, one) in zip(x, points, strict=True):
                if one.interval is not None:
                    axes.plot([place, place], one.interval, color=colour, linewidth=1.2)
        name_lengths(axes, [(one.first, one.last, one.examples) for one in bins])
        axes.set_ylabel("NDCG@10")
        legend_above(axes)
    return figure


def _draw_time(rows: list[ResultRow], reference: str) -> Figure:
    """Draw NDCG@10 against the time up to the best epoch."""
    points = {}
    with drawing_style():
        figure, (axes,) = new_figure(3.4)
        for row in rows:
            assert row.cost is not None
            assert row.ndcg is not None
            x, y = points[row.name] = row.cost["seconds_to_best"], row.ndcg.mean
            colour = BLUE if row.name == reference else GREY
            if row.ndcg.interval:
                axes.plot([x, x], row.ndcg.interval, color=colour, linewidth=1)
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
