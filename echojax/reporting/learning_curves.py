"""How the run went: training loss and validation scores by epoch."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from echojax.reporting.drawing import BLUE, GREY, ORANGE, legend_above, new_figure
from echojax.reporting.run_record import label_of


def draw_loss(train: list[dict[str, Any]]) -> Figure:
    """Draw the training loss, the mean of each epoch so far."""
    figure, (axes,) = new_figure(3.2)
    epochs, losses = [r["epoch"] for r in train], [r["loss"] for r in train]
    axes.plot(epochs, losses, color=BLUE, **_marks(train))
    axes.set_ylabel("training loss (nats per item)")
    _epoch_axis(axes)
    return figure


def draw_validation(valid: list[dict[str, Any]], best: dict[str, Any]) -> Figure:
    """Draw HR@10 and NDCG@10 on validation, with the epoch that was chosen and its scores."""
    figure, (axes,) = new_figure(3.2)
    epochs = [record["epoch"] for record in valid]
    axes.axvline(best["epoch"], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    for metric, colour in (("hr@10", ORANGE), ("ndcg@10", BLUE)):
        label = f"{label_of(metric)} ({best[metric]:.4f})"
        values = [record[metric] for record in valid]
        axes.plot(epochs, values, color=colour, label=label, **_marks(valid))
        axes.plot(best["epoch"], best[metric], "o", color=colour, markersize=7)
    axes.set_ylabel("score on validation")
    axes.set_ylim(bottom=0)
    legend_above(axes)
    _epoch_axis(axes)
    return figure


def _marks(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how points are marked: few points need it to be seen, many would be a smear."""
    return {"marker": "o", "markersize": 3.5} if len(records) <= 30 else {}


def _epoch_axis(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.set_xlim(0, max(1, axes.get_xlim()[1]))  # whole epochs, in a shorter run too
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
