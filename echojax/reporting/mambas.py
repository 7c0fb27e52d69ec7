"""What the Mambas learned: their time steps, and how long their states remember."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from echojax.reporting.drawing import BLUE, GREY, INK, new_figure
from echojax.reporting.run_record import Pairs

_WHEN = (("before", GREY), ("after", BLUE))
_SHARES = np.linspace(0, 1, 201)


def draw_time_steps(steps: Pairs) -> Figure:
    """Draw how often each time step occurs in each Mamba; each curve's peak is 1.

    Args:
        steps: (time step, share) pairs, (K, 2), before and after, by Mamba ("0/forward").
    """
    figure, panels = _panels(steps)
    for name, axes in panels.items():
        for (label, colour), step_Kx2 in zip(_WHEN, steps[name], strict=True):
            step_K, share_K = step_Kx2.T
            height_K = share_K / share_K.max()
            axes.fill_between(step_K, height_K, color=colour, alpha=0.25, linewidth=0, step="mid")
            axes.plot(step_K, height_K, color=colour, drawstyle="steps-mid", label=label)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.05)
        axes.set_yticks([])
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:g}")
    low, high = _decades(np.concatenate([step_Kx2 for pair in steps.values() for step_Kx2 in pair]))
    for axes in panels.values():
        axes.set_xlim(low, high)
    figure.supxlabel("time step of an event", fontsize=10)
    figure.supylabel("how often (peak = 1)", fontsize=10)
    _legend(figure, [Line2D([], [], color=colour, label=label) for label, colour in _WHEN])
    return figure


def draw_memory(memories: Pairs, max_len: int) -> Figure:
    """Draw how many states of each Mamba remember at least so many events.

    Args:
        memories: events until a state decays to 1/e, (E, N), before and after, by Mamba.
        max_len: how many events the model is shown, marked.
    """
    figure, panels = _panels(memories)
    for name, axes in panels.items():
        for (_, colour), memory_ExN in zip(_WHEN, memories[name], strict=True):
            slowest_E = memory_ExN.max(axis=1)
            for values, dashes in ((memory_ExN, "solid"), (slowest_E, (0, (3, 1.5)))):
                at_least = np.quantile(values, 1 - _SHARES)
                axes.plot(at_least, 100 * _SHARES, color=colour, linestyle=dashes)
        axes.axvline(max_len, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda events, _: f"{events:g}")
        axes.set_ylim(0, 103)
    figure.supxlabel("events until a state decays to 1/e", fontsize=10)
    figure.supylabel("% that remember so long", fontsize=10)
    lines = [Line2D([], [], color=colour, label=label) for label, colour in _WHEN]
    lines.append(Line2D([], [], color=INK, linestyle=(0, (3, 1.5)), label="slowest of a channel"))
    lines.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (1, 2)), label="window"))
    _legend(figure, lines)
    return figure


def _panels(mambas: Pairs) -> tuple[Figure, dict[str, Axes]]:
    """Return a figure with a row for each depth and a column for each direction, by name."""
    directions = [d for d in ("forward", "backward") if f"0/{d}" in mambas]
    depth = len(mambas) // len(directions)
    names = [f"{i}/{direction}" for i in range(depth) for direction in directions]
    figure, axes = new_figure(1.4 + 1.6 * depth, rows=depth, columns=len(directions))
    panels = dict(zip(names, axes, strict=True))
    for name, one in panels.items():
        i, direction = name.split("/")
        one.set_title(direction + (f", Mamba {int(i) + 1}" if depth > 1 else ""))
    return figure, panels


def _decades(step_Kx2: np.ndarray) -> tuple[float, float]:
    """Return the whole decades around the time steps that occur, at least two, with some room."""
    step_K = np.log10(step_Kx2[step_Kx2[:, 1] > 1e-4, 0])
    low, high = np.floor(step_K.min()), np.ceil(step_K.max())
    return 0.8 * 10.0 ** min(low, high - 2), 1.25 * 10.0**high


def _legend(figure: Figure, lines: list[Line2D]) -> None:
    figure.legend(handles=lines, loc="outside upper left", ncols=len(lines), borderpad=0.4)
