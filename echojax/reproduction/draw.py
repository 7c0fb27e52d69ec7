"""The drawing of each kind of picture."""

import math
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from echojax.reporting.drawing import new_figure
from echojax.reproduction.lines import Line
from echojax.reproduction.score_tables import range_words
from echojax.reproduction.scores import FEW, Paired


class Colours(NamedTuple):
    """Colours of a picture, as of the page."""

    ink: str
    faint: str
    blue: str
    orange: str
    grey: str


def draw_scores(lines: list[Line], reference: str, colours: Colours) -> Figure:
    """Draw HR@10 and NDCG@10 of every row with intervals, one row a line."""
    figure, panels = new_figure(0.8 + 0.24 * len(lines), columns=2)
    for axes, metric, label in zip(panels, ("hr", "ndcg"), ("HR@10", "NDCG@10"), strict=True):
        highest = 0.0
        for place, line in enumerate(lines):
            one = getattr(line, metric)
            colour = colours.blue if line.name == reference else colours.grey
            low, high = one.interval or (one.mean, one.mean)
            axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot(one.mean, place, "o", color=colour, markersize=5, zorder=3)
            axes.annotate(
                f"{one.mean:.3f}", (high, place), (5, 0), textcoords="offset points", va="center",
                fontsize=8,
            )  # fmt: skip
            highest = max(highest, high)
        axes.set_xlim(0, 1.3 * highest or 1)
        axes.set_xlabel(label)
        _lines_of_rows(axes)
    _row_names(panels[0], lines)
    return figure


def draw_differences(lines: list[Line], colours: Colours) -> Figure:
    """Draw each row's difference to the reference with its interval."""
    figure, (axes,) = new_figure(0.8 + 0.24 * len(lines))
    axes.axvline(0, color=colours.blue, linewidth=1.2)
    for place, line in enumerate(lines):
        paired = line.paired
        assert isinstance(paired, Paired)
        axes.plot([paired.low, paired.high], [place, place], color=colours.grey, linewidth=2)
        filled = colours.grey if paired.p_holm < 0.05 else "none"
        axes.plot(
            paired.difference, place, "o", color=colours.grey, markersize=6, zorder=3,
            markerfacecolor=filled,
        )  # fmt: skip
    axes.set_xlabel("difference in NDCG@10")
    _lines_of_rows(axes)
    _row_names(axes, lines)
    return figure


def draw_by_length(lines: list[Line], reference: str, colours: Colours) -> Figure:
    """Draw NDCG@10 by length of the history: the reference, the best other row, the rest."""
    figure, (axes,) = new_figure(3.4)
    buckets = [bucket for bucket in lines[0].by_length if bucket.examples >= FEW]
    places = {bucket.first: place for place, bucket in enumerate(buckets)}
    rivals = [line for line in lines if line.name != reference and line.ndcg is not None]
    best = max(rivals, key=lambda line: line.ndcg.mean if line.ndcg else 0, default=None)
    for line in sorted(lines, key=lambda line: (line.name == reference, line is best)):
        special = line.name == reference or line is best
        colour = colours.blue if line.name == reference else colours.orange
        shift = 0.06 if line is best else -0.06
        points = [(places[b.first], b.ndcg) for b in line.by_length if b.first in places]
        axes.plot(
            [place + shift * special for place, _ in points], [one.mean for _, one in points],
            color=colour if special else colours.faint, label=line.name if special else None,
            marker="o" if special else None, markersize=4, linewidth=1.6 if special else 1.0,
        )  # fmt: skip
        for place, one in points if special else ():
            if one.interval is not None:
                axes.plot([place + shift] * 2, one.interval, color=colour, linewidth=1.2)
    labels = [f"{range_words(b.first, b.last)}\n{b.examples:,}" for b in buckets]
    axes.set_xticks(range(len(buckets)), labels)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("items in the history, and how many examples")
    axes.set_ylabel("NDCG@10")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=2)
    return figure


def draw_time(lines: list[Line], reference: str, colours: Colours) -> Figure:
    """Draw NDCG@10 against the time up to the best epoch."""
    figure, (axes,) = new_figure(3.4)
    points = {
        line.name: (line.cost.seconds_to_best, line.ndcg.mean)
        for line in lines
        if line.cost and line.cost.seconds_to_best and line.ndcg
    }
    for line in lines:
        if line.name in points and line.ndcg and line.ndcg.interval:
            colour = colours.blue if line.name == reference else colours.grey
            x, y = points[line.name]
            axes.plot([x, x], line.ndcg.interval, color=colour, linewidth=1)
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
    """Write names beside points, where there is room, and none upon another."""
    times = [x for x, _ in points.values()]
    middle = math.sqrt(min(times) * max(times))
    letters_high = 185 / axes.get_ylim()[1]  # printer's points of the axes a unit of y
    last = {True: -math.inf, False: -math.inf}
    for name, (x, y) in sorted(points.items(), key=lambda item: item[1][1]):
        left = x > middle
        place = last[left] = max(y * letters_high, last[left] + 9)
        axes.annotate(
            name, (x, y), (-6 if left else 6, place - y * letters_high),
            textcoords="offset points", fontsize=8, ha="right" if left else "left", va="center",
        )  # fmt: skip


def _lines_of_rows(axes: Axes) -> None:
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")


def _row_names(axes: Axes, lines: list[Line]) -> None:
    axes.set_yticks(range(len(lines)), [line.name for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
