"""Figures of a run: its scores, and curves of loss and validation."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from echojax.report.figures import (
    BLUE,
    GREY,
    ORANGE,
    Picture,
    draw_scores,
    drawing_style,
    legend_above,
    name_lengths,
    new_figure,
)
from echojax.report.learned_figures import learned_pictures
from echojax.report.run_record import RunRecord
from echojax.report.run_tables import systems_of

_METRICS = (("hr@10", "HR@10", ORANGE), ("ndcg@10", "NDCG@10", BLUE))


def run_pictures(run: RunRecord) -> list[Picture]:
    """Draw the figures for which the run has data so far."""
    with drawing_style():
        pictures = []
        if run.results is not None:
            pictures.append(_systems(systems_of(run.results, "test")))
            pictures.append(_by_length(run.results["test"]["by_length"]))
        if run.train:
            figure, (axes,) = new_figure(3.2)
            _draw_by_epoch(axes, run.train, "loss", BLUE)
            axes.set_ylabel("training loss (nats per item)")
            caption = "Mean over the epoch so far."
            pictures.append(Picture("training-loss", "Training loss", caption, figure))
        if run.best is not None:
            pictures.append(_validation(run.valid, run.best))
    return pictures + learned_pictures(run.analysis, run.config.get("max_len", 0))


def _systems(systems: dict[str, dict[str, Any]]) -> Picture:
    """Draw the scores of model, baselines and optimum."""
    return Picture(
        "scores",
        "Score against the baselines",
        "Test scores with 95 % bootstrap intervals over users. Popularity recommends the most "
        "frequent items, Markov what most often followed the last item in training"
        + ("; no predictor can beat the optimum." if "optimum" in systems else "."),
        draw_scores(3.2, systems.items(), "model"),
    )


def _by_length(bins: list[dict[str, Any]]) -> Picture:
    """Draw HR@10 and NDCG@10 with intervals by the length of the history."""
    figure, (axes,) = new_figure(3.2)
    for (metric, label, colour), shift in zip(_METRICS, (-0.1, 0.1), strict=True):
        places = [place + shift for place in range(len(bins))]
        intervals = [one["interval"][metric] for one in bins]
        axes.vlines(places, *zip(*intervals, strict=True), color=colour, linewidth=2)
        scores = [one[metric] for one in bins]
        axes.plot(places, scores, "o", color=colour, label=label, clip_on=False, zorder=3)
    name_lengths(axes, [(one["from"], one["to"], one["examples"]) for one in bins])
    axes.set_ylabel("score on test")
    legend_above(axes)
    return Picture(
        "scores-by-length",
        "Score by length of the history",
        "Test scores with 95 % intervals; below each range is its number of examples.",
        figure,
    )


def _validation(valid: list[dict[str, Any]], best: dict[str, Any]) -> Picture:
    """Draw HR@10 and NDCG@10 on validation, with the best epoch and its scores marked."""
    figure, (axes,) = new_figure(3.2)
    axes.axvline(best["epoch"], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    for metric, label, colour in _METRICS:
        _draw_by_epoch(axes, valid, metric, colour, f"{label} ({best[metric]:.4f})")
        axes.plot(best["epoch"], best[metric], "o", color=colour, markersize=7)
    axes.set_ylabel("score on validation")
    axes.set_ylim(bottom=0)
    legend_above(axes)
    return Picture(
        "validation",
        "Validation",
        f"Epoch {best['epoch']}, marked, has the best NDCG@10; its scores are in brackets.",
        figure,
    )


def _draw_by_epoch(
    axes: Axes, records: list[dict[str, Any]], key: str, colour: str, label: str | None = None
) -> None:
    """Draw a value by epoch, with markers if there are few points."""
    marker = "o" if len(records) <= 30 else None
    epochs, values = [record["epoch"] for record in records], [record[key] for record in records]
    axes.plot(epochs, values, color=colour, label=label, marker=marker, markersize=3.5)
    axes.set_xlabel("epoch")
    axes.set_xlim(0, max(1, axes.get_xlim()[1]))  # at least one epoch
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
