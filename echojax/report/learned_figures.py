"""Figures of a model before and after training: attribution, FFT filters, dt and memory."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from echojax.report.figures import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    Picture,
    drawing_style,
    legend_above,
    new_figure,
)
from echojax.report.run_record import Pairs

WHY_DIRECTIONS_EXCEED = (
    "The two directions together can exceed the whole, since their gradients are vectors that "
    "partly cancel each other."
)
_WHEN = (("before", GREY), ("after", BLUE))
_DIRECTIONS = (("forward", BLUE), ("backward", ORANGE))
_LEVELS = {"events": "of events", "read": "of what is read"}
_LEAST_SHARE = 1e-4  # per cent; smaller shares, close to rounding errors, are not shown
_AGES = "events ago (1 is the last), and the first event shown"
_FREQUENCY = "frequency (cycles per event), and period (events)"
_QUANTILES = np.linspace(0, 1, 201)
_DASHED, _DOTTED = (0, (3, 1.5)), (0, (1, 2))


def learned_pictures(analysis: Mapping[str, Pairs], max_len: int) -> list[Picture]:
    """Draw the figures of what the analysis of a run contains, as ``read_analysis`` gives it."""
    shares, filters = analysis.get("influence", {}), analysis.get("filter", {})
    dt, memory = analysis.get("time_steps"), analysis.get("memory")
    with drawing_style():
        pictures = []
        if "events" in shares:
            pictures.append(_attribution(shares["events"]))
        if all(f"{level}/{name}" in shares for level in _LEVELS for name, _ in _DIRECTIONS):
            pictures.append(_directions(shares))
        if filters:
            layers = [filters[layer] for layer in sorted(filters, key=int)]
            pictures += [_responses(layers, max_len), _heat_maps(layers)]
        if dt and memory:
            pictures += [_dt(dt), _memory(memory, max_len)]
    return pictures


def _attribution(shares: tuple[np.ndarray, np.ndarray]) -> Picture:
    """Draw the share of each event by its age, from shares before and after training, (L + 2,).

    Index 0 is the mean share of all padding, k that of the event k events ago, and L + 1 that of
    the first event; NaN if there is none.
    """
    figure, (axes,) = new_figure(3.2)
    for (_, colour), share_P in zip(_WHEN, shares, strict=True):
        _draw_shares(axes, share_P, colour)
    _scale_shares(axes, shares)
    axes.set_xlabel(_AGES)
    axes.set_ylabel("% of the attribution of the score")
    _legend_of_shares(figure, _WHEN)
    return Picture(
        "attribution-to-past-events",
        "Attribution to past events",
        "How much the score of the next item changes with the vector of each past event (input "
        "gradient times length), as a share of all of them; mean over a sample of validation "
        "histories. Open marks on the bottom line are exactly 0.",
        figure,
    )


def _directions(shares: Pairs) -> Picture:
    """Draw the shares through the forward and the backward Mambas, each as in ``_attribution``."""
    figure, panels = new_figure(5.4, rows=2, columns=2)
    for row, (level, words) in enumerate(_LEVELS.items()):
        pairs = [shares[f"{level}/{name}"] for name, _ in _DIRECTIONS]
        for column, axes in enumerate(panels[2 * row : 2 * row + 2]):
            for (_, colour), pair in zip(_DIRECTIONS, pairs, strict=True):
                _draw_shares(axes, pair[column], colour, padding=level == "read")
            axes.set_title(f"{words}, {_WHEN[column][0]}")
            _scale_shares(axes, [one for pair in pairs for one in pair], padding=True)
    figure.supxlabel(f"all of the padding, {_AGES}", fontsize=10)
    figure.supylabel("% of the attribution of the score", fontsize=10)
    _legend_of_shares(figure, _DIRECTIONS)
    return Picture(
        "attribution-through-each-direction",
        "Attribution through each direction",
        "The same, for gradients that pass only through the forward or only through the backward "
        "Mambas. The upper panels attribute to the events, before the filter, which mixes "
        "positions; the lower ones to the input of the first layer's Mambas, after the filter. A "
        "direction whose marks lie on the bottom line has not seen those events: they reach it "
        f"only through the filter. {WHY_DIRECTIONS_EXCEED}",
        figure,
    )


def _draw_shares(axes: Axes, share_P: np.ndarray, colour: str, *, padding: bool = False) -> None:
    """Draw a line over the ages, and marks for the first event and for padding.

    Shares of exactly 0, which have no place on a logarithmic axis, are open marks at the bottom.
    """
    place_P = _places(share_P.size)
    percent_P = np.where(share_P > 0, 100 * share_P, np.nan)
    axes.plot(place_P[1:-1], percent_P[1:-1], color=colour, **_marks(colour))
    shown = slice(0 if padding else 1, None)
    axes.plot(place_P[shown], percent_P[shown], linestyle="", **_marks(colour))
    zeros = place_P[shown][share_P[shown] == 0]
    if zeros.size:
        (marks,) = axes.plot(zeros, 0 * zeros, linestyle="", **_marks(colour, "none"))
        marks.set(clip_on=False, transform=axes.get_xaxis_transform())


def _scale_shares(axes: Axes, shares: Sequence[np.ndarray], *, padding: bool = False) -> None:
    """Make both axes logarithmic: the newest events matter most, but most events are old."""
    place_P = _places(shares[0].size)
    ticks = {
        age: str(age) for age in (1, 2, 5, 10, 20, 50, 100, 200, 500) if age < place_P.size - 2
    }
    ends = {place_P[0]: "pad"} if padding else {}
    ends[place_P[-1]] = "first"
    axes.set_xscale("log")
    axes.set_xlim(place_P[0] / 1.3 if padding else 0.85, place_P[-1] * 1.3)
    axes.set_xticks([], minor=True)
    axes.set_xticks([*ticks, *ends], [*ticks.values(), *ends.values()])
    known = 100 * np.concatenate(shares)
    known = known[known > _LEAST_SHARE]
    axes.set_yscale("log")
    if known.size:
        axes.set_ylim(known.min() / 2, min(150, 2 * known.max()))
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:g}")


def _places(size: int) -> np.ndarray:
    """Return the x coordinates of padding, ages and the first event."""
    place_P = np.arange(size, dtype=float)
    place_P[0], place_P[-1] = 0.5, 1.8 * (size - 2)
    return place_P


def _marks(colour: str, face: str | None = None) -> dict[str, Any]:
    face = face or colour
    return {"marker": "o", "markersize": 3.5, "markeredgecolor": colour, "markerfacecolor": face}


def _legend_of_shares(figure: Figure, lines: Sequence[tuple[str, str]]) -> None:
    handles = [Line2D([], [], color=colour, label=name, **_marks(colour)) for name, colour in lines]
    handles.append(Line2D([], [], linestyle="", label="exactly 0", **_marks(INK, "none")))
    _legend(figure, handles)


def _responses(layers: Sequence[tuple[np.ndarray, np.ndarray]], max_len: int) -> Picture:
    """Draw the amplitude of each layer over frequency, from (F, D) responses before and after."""
    figure, panels = new_figure(0.8 + 2.4 * len(layers), rows=len(layers))
    frequency_F = np.fft.rfftfreq(max_len)
    for layer, (axes, pair) in enumerate(zip(panels, layers, strict=True), 1):
        for (name, colour), response_FxD in zip(_WHEN, pair, strict=True):
            amplitude_FxD = np.abs(response_FxD)
            low_F, high_F = np.quantile(amplitude_FxD, [0.1, 0.9], axis=1)
            axes.fill_between(frequency_F, low_F, high_F, color=colour, alpha=0.25, linewidth=0)
            axes.plot(frequency_F, amplitude_FxD.mean(axis=1), color=colour, label=name)
        axes.set_xlim(0, 0.5)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("amplitude (gain)" + (f", layer {layer}" if len(layers) > 1 else ""))
        legend_above(axes)
    axes.set_xlabel(_FREQUENCY)
    _name_periods(axes)
    return Picture(
        "learned-fft-filters",
        "Learned FFT filters",
        "Amplitude of the frequency response before and after training: mean over the channels, "
        "and the range of the middle 80 %. Low frequencies are lasting tastes, high ones change "
        "from event to event. The filter's output is added to its input.",
        figure,
    )


def _heat_maps(layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> Picture:
    """Draw the amplitude of each layer by channel and frequency, with the same colour scale."""
    figure, panels = new_figure(0.8 + 2.4 * len(layers), rows=len(layers), columns=2)
    for layer, pair in enumerate(layers):
        amplitudes = [np.abs(response_FxD) for response_FxD in pair]
        power_FxD = amplitudes[1] ** 2 + np.finfo(np.float32).tiny
        centre_D = np.arange(len(power_FxD)) @ power_FxD / power_FxD.sum(axis=0)
        order = np.argsort(centre_D, kind="stable")
        highest = max(float(amplitude.max()) for amplitude in amplitudes)
        row = panels[2 * layer : 2 * layer + 2]
        for axes, (name, _), amplitude_FxD in zip(row, _WHEN, amplitudes, strict=True):
            image = axes.imshow(
                amplitude_FxD[:, order].T,
                cmap="cividis",
                vmin=0,
                vmax=highest,
                aspect="auto",
                interpolation="nearest",
                extent=(0, 0.5, order.size, 0),
            )
            axes.grid(visible=False)
            axes.set_title(name + (f", layer {layer + 1}" if len(layers) > 1 else ""))
        row[0].set_ylabel("channel, by centre frequency")
        bar = figure.colorbar(image, ax=row, label="amplitude (gain)", fraction=0.05)
        if bar.solids is not None:
            bar.solids.set_rasterized(True)
        bar.outline.set_visible(False)
    for axes in row:
        _name_periods(axes)
    figure.supxlabel(_FREQUENCY, fontsize=10)
    return Picture(
        "learned-fft-filters-by-channel",
        "Learned FFT filters by channel",
        "The same amplitudes channel by channel, in the order of their centre frequency after "
        "training; before and after share a scale.",
        figure,
    )


def _name_periods(axes: Axes) -> None:
    """Write the period, in events, below each frequency."""
    axes.xaxis.set_major_formatter(lambda f, _: f"{f:g}\n{1 / f:.2g}" if f > 0 else "0\n∞")


def _dt(distributions: Pairs) -> Picture:
    """Draw how often each dt occurs in each Mamba, from (dt, share) pairs, (K, 2), with peak 1."""
    figure, panels = _panels(distributions)
    occurring = []
    for name, axes in panels.items():
        for (_, colour), dt_Kx2 in zip(_WHEN, distributions[name], strict=True):
            dt_K, share_K = dt_Kx2.T
            height_K = share_K / share_K.max()
            axes.fill_between(dt_K, height_K, color=colour, alpha=0.25, linewidth=0, step="mid")
            axes.plot(dt_K, height_K, color=colour, drawstyle="steps-mid")
            occurring.append(np.log10(dt_K[height_K > 1e-3]))
        axes.set_ylim(0, 1.05)
        axes.set_yticks([])
    # Show whole decades, at least two.
    low, high = np.floor(np.concatenate(occurring).min()), np.ceil(np.concatenate(occurring).max())
    for axes in panels.values():
        _log_x(axes)
        axes.set_xlim(0.8 * 10.0 ** min(low, high - 2), 1.25 * 10.0**high)
    figure.supxlabel("dt of an event", fontsize=10)
    figure.supylabel("how often (peak = 1)", fontsize=10)
    _legend(figure, [Line2D([], [], color=colour, label=label) for label, colour in _WHEN])
    return Picture(
        "distribution-of-dt",
        "Distribution of dt",
        "The time steps dt, which say how far an event moves the states of each channel, over the "
        "events of a sample of validation histories. An event keeps exp(−dt |A|) of a state and is "
        "added with weight dt: a small dt remembers, a large one replaces.",
        figure,
    )


def _memory(memories: Pairs, max_len: int) -> Picture:
    """Draw the share of states of each Mamba by the number of events that they remember."""
    figure, panels = _panels(memories)
    for name, axes in panels.items():
        for (_, colour), memory_ExN in zip(_WHEN, memories[name], strict=True):
            for values, dashes in ((memory_ExN, "solid"), (memory_ExN.max(axis=1), _DASHED)):
                at_least = np.quantile(values, 1 - _QUANTILES)
                axes.plot(at_least, 100 * _QUANTILES, color=colour, linestyle=dashes)
        axes.axvline(max_len, color=INK, linewidth=1, linestyle=_DOTTED)
        _log_x(axes)
        axes.set_ylim(0, 103)
    figure.supxlabel("events until a state decays to 1/e", fontsize=10)
    figure.supylabel("% that remember so long", fontsize=10)
    lines = [Line2D([], [], color=colour, label=label) for label, colour in _WHEN]
    lines.append(Line2D([], [], color=INK, linestyle=_DASHED, label="slowest of a channel"))
    lines.append(Line2D([], [], color=INK, linewidth=1, linestyle=_DOTTED, label="window"))
    _legend(figure, lines)
    return Picture(
        "memory-of-the-states",
        "Memory of the states",
        "Share of the states that need at least so many events to decay to 1/e, at their channel's "
        "mean dt; dashed: the slowest state of each channel. A state whose memory is below 1 holds "
        "little but the newest event; memory beyond the window is not used.",
        figure,
    )


def _panels(mambas: Pairs) -> tuple[Figure, dict[str, Axes]]:
    """Return a figure with a row per depth and a column per direction, and its axes by name."""
    depths = sorted({int(name.split("/")[0]) for name in mambas})
    directions = [d for d in ("forward", "backward") if any(name.endswith(d) for name in mambas)]
    figure, axes = new_figure(1.4 + 1.6 * len(depths), rows=len(depths), columns=len(directions))
    panels = {}
    for (depth, direction), one in zip(product(depths, directions), axes, strict=True):
        one.set_title(direction + (f", Mamba {depth + 1}" if len(depths) > 1 else ""))
        panels[f"{depth}/{direction}"] = one
    return figure, {name: one for name, one in panels.items() if name in mambas}


def _log_x(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")


def _legend(figure: Figure, lines: list[Line2D]) -> None:
    figure.legend(handles=lines, loc="outside upper left", ncols=len(lines), borderpad=0.4)
