"""What the FFT filters learned: amplitude by frequency, before and after training."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from echojax.reporting.drawing import BLUE, GREY, legend_above, new_figure

Filters = list[tuple[np.ndarray, np.ndarray]]

_X_LABEL = "frequency (cycles per event), and period (events)"


def draw_responses(filters: Filters, max_len: int) -> Figure:
    """Draw each layer's amplitude over frequency: mean and 10-90 % spread of the channels."""
    figure, panels = new_figure(0.8 + 2.4 * len(filters), rows=len(filters))
    for layer, (axes, pair) in enumerate(zip(panels, filters, strict=True)):
        frequency_F = np.fft.rfftfreq(max_len)
        for name, weight_FxD, colour in zip(("before", "after"), pair, (GREY, BLUE), strict=True):
            amplitude_FxD = np.abs(weight_FxD)
            low_F, high_F = np.quantile(amplitude_FxD, [0.1, 0.9], axis=1)
            axes.fill_between(frequency_F, low_F, high_F, color=colour, alpha=0.25, linewidth=0)
            axes.plot(frequency_F, amplitude_FxD.mean(axis=1), color=colour, label=name)
        axes.set_xlim(0, 0.5)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"amplitude (gain){_of_layer(layer, filters)}")
        legend_above(axes)
    panels[-1].set_xlabel(_X_LABEL)
    _period_ticks(panels[-1])
    return figure


def draw_heat_maps(filters: Filters) -> Figure:
    """Draw each layer's amplitude by channel and frequency, before and after on one scale."""
    figure, panels = new_figure(0.8 + 2.4 * len(filters), rows=len(filters), columns=2)
    for layer, pair in enumerate(filters):
        amplitudes = [np.abs(weight_FxD) for weight_FxD in pair]
        highest = max(float(amplitude.max()) for amplitude in amplitudes)
        order = np.argsort(_centre(amplitudes[1]), kind="stable")
        row = panels[2 * layer : 2 * layer + 2]
        for axes, name, amplitude_FxD in zip(row, ("before", "after"), amplitudes, strict=True):
            image = axes.imshow(
                amplitude_FxD[:, order].T, cmap="cividis", vmin=0, vmax=highest,
                aspect="auto", interpolation="nearest", extent=(0, 0.5, order.size, 0),
            )  # fmt: skip
            axes.grid(visible=False)
            axes.set_title(name + _of_layer(layer, filters))
        row[0].set_ylabel("channel, by centre frequency")
        bar = figure.colorbar(image, ax=row, label="amplitude (gain)", fraction=0.05)
        if bar.solids is not None:
            bar.solids.set_rasterized(True)
        bar.outline.set_visible(False)
    for axes in row:
        _period_ticks(axes)
    figure.supxlabel(_X_LABEL, fontsize=10)
    return figure


def _period_ticks(axes: Axes) -> None:
    """Write below each frequency how many events its period lasts."""
    axes.xaxis.set_major_formatter(lambda f, _: f"{f:g}\n{1 / f:.2g}" if f > 0 else "0\n∞")


def _of_layer(layer: int, filters: Filters) -> str:
    return f", layer {layer + 1}" if len(filters) > 1 else ""


def _centre(amplitude_FxD: np.ndarray) -> np.ndarray:
    """Return each channel's mean frequency, weighted by power."""
    power_FxD = amplitude_FxD**2 + np.finfo(np.float32).tiny
    return np.arange(len(power_FxD)) @ power_FxD / power_FxD.sum(axis=0)
