"""How good the model is: beside the baselines, and by length of the history."""

from typing import Any

from matplotlib.figure import Figure

from echojax.reporting.drawing import BLUE, GREY, ORANGE, legend_above, new_figure
from echojax.reporting.run_record import label_of

_METRICS = ("hr@10", "ndcg@10")


def draw_systems(systems: dict[str, dict[str, Any]]) -> Figure:
    """Draw HR@10 and NDCG@10 of model, baselines and optimum with their intervals."""
    names = list(systems)
    figure, panels = new_figure(3.2, columns=2)
    for axes, metric in zip(panels, _METRICS, strict=True):
        means = [systems[name][metric] for name in names]
        highest = max(systems[name]["interval"][metric][1] for name in names)
        for row, (name, mean) in enumerate(zip(names, means, strict=True)):
            low, high = systems[name]["interval"][metric]
            colour = BLUE if name == "model" else GREY
            axes.plot([low, high], [row, row], color=colour, linewidth=2.5, clip_on=False)
            axes.plot(mean, row, "o", color=colour, markersize=7, clip_on=False, zorder=3)
            axes.annotate(
                f"{mean:.3f}", (high, row), (6, 0), textcoords="offset points", va="center"
            )
        axes.set_xlim(0, 1.32 * highest or 1)
        axes.set_xlabel(label_of(metric))
        axes.locator_params(axis="x", nbins=4)
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def draw_by_length(buckets: list[dict[str, Any]]) -> Figure:
    """Draw HR@10 and NDCG@10 with intervals by the length of the history."""
    figure, (axes,) = new_figure(3.2)
    for metric, colour, shift in zip(_METRICS, (ORANGE, BLUE), (-0.1, 0.1), strict=True):
        places = [place + shift for place in range(len(buckets))]
        means = [bucket[metric] for bucket in buckets]
        intervals = [bucket["interval"][metric] for bucket in buckets]
        axes.vlines(places, *zip(*intervals, strict=True), color=colour, linewidth=2)
        axes.plot(places, means, "o", color=colour, label=label_of(metric), clip_on=False, zorder=3)
    labels = [f"{_range(bucket)}\n{bucket['examples']:,}" for bucket in buckets]
    axes.set_xticks(range(len(buckets)), labels)
    middle, half = (len(buckets) - 1) / 2, max(len(buckets), 4) / 2 + 0.1
    axes.set_xlim(middle - half, middle + half)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("items in the history, and how many examples")
    axes.set_ylabel("score on test")
    legend_above(axes)
    return figure


def _range(bucket: dict[str, Any]) -> str:
    return f"{bucket['from']}+" if bucket["to"] is None else f"{bucket['from']}–{bucket['to']}"
