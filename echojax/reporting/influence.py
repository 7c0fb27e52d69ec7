"""How much past events move the score of the next item, by how long ago they were."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from echojax.reporting.drawing import BLUE, GREY, INK, ORANGE, new_figure
from echojax.reporting.run_record import Pairs

_LEAST = 1e-4  # per cent; what is less is not shown, and close to rounding
_LEVELS = {"events": "of events", "read": "of what is read"}
_WHEN = (("before", GREY), ("after", BLUE))
_DIRECTIONS = (("forward", BLUE), ("backward", ORANGE))
_X_LABEL = "events ago (1 is the last), and the first event shown"


def draw_influence(shares: tuple[np.ndarray, np.ndarray]) -> Figure:
    """Draw each event's share by its age, before and after training.

    Args:
        shares: (L + 2,) each: mean share of all padding at 0, of the event k events ago at k, of
            the first event at L + 1; NaN where there is none.
    """
    figure, (axes,) = new_figure(3.2)
    for (_, colour), share_P in zip(_WHEN, shares, strict=True):
        _draw(axes, share_P, colour)
    _scales(axes, shares)
    axes.set_xlabel(_X_LABEL)
    axes.set_ylabel("% of the influence on the score")
    _legend(figure, _WHEN)
    return figure


def draw_directions(influence: Pairs) -> Figure:
    """Draw the shares that come through the forward and through the backward Mambas.

    Args:
        influence: "events/forward", "read/backward" and so on -> shares before and after
            training, as for ``draw_influence``.
    """
    figure, panels = new_figure(5.4, rows=2, columns=2)
    for row, (level, words) in enumerate(_LEVELS.items()):
        columns = panels[2 * row : 2 * row + 2]
        pairs = [influence[f"{level}/{name}"] for name, _ in _DIRECTIONS]
        for column, axes in enumerate(columns):
            for (_, colour), pair in zip(_DIRECTIONS, pairs, strict=True):
                _draw(axes, pair[column], colour, padding=level == "read")
            axes.set_title(f"{words}, {_WHEN[column][0]}")
            _scales(axes, [one for pair in pairs for one in pair], padding=True)
    figure.supxlabel(f"all of the padding, {_X_LABEL}", fontsize=10)
    figure.supylabel("% of the influence on the score", fontsize=10)
    _legend(figure, _DIRECTIONS)
    return figure


def _draw(axes: Axes, share_P: np.ndarray, colour: str, *, padding: bool = False) -> None:
    """Draw a line over the ages, and marks for the first event and for padding.

    Shares of exactly 0, which no logarithmic axis holds, are open marks on the bottom line.
    """
    place_P = _places(share_P.size)
    percent_P = np.where(share_P > 0, 100 * share_P, np.nan)
    axes.plot(place_P[1:-1], percent_P[1:-1], color=colour, **_marks(colour))
    shown = slice(0 if padding else 1, None)
    axes.plot(place_P[shown], percent_P[shown], linestyle="", **_marks(colour))
    zeros = place_P[shown][share_P[shown] == 0]
    if zeros.size:
        axes.plot(
            zeros, np.zeros(zeros.size), linestyle="", clip_on=False,
            transform=axes.get_xaxis_transform(), **_marks(colour, "none"),
        )  # fmt: skip


def _scales(axes: Axes, shares: Sequence[np.ndarray], *, padding: bool = False) -> None:
    """Make both axes logarithmic: the newest events count most, the oldest are the most."""
    place_P = _places(shares[0].size)
    length = place_P.size - 2
    ticks = {age: str(age) for age in (1, 2, 5, 10, 20, 50, 100, 200, 500) if age < length}
    ends = {place_P[0]: "pad"} if padding else {}
    ends[place_P[-1]] = "first"
    axes.set_xscale("log")
    axes.set_xlim(place_P[0] / 1.3 if padding else 0.85, place_P[-1] * 1.3)
    axes.set_xticks([], minor=True)
    axes.set_xticks([*ticks, *ends], [*ticks.values(), *ends.values()])
    known = 100 * np.concatenate(shares)
    known = known[known > _LEAST]
    axes.set_yscale("log")
    if known.size:
        axes.set_ylim(known.min() / 2, min(150, 2 * known.max()))
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:g}")


def _places(size: int) -> np.ndarray:
    """Return where padding, ages and the first event stand on the axis."""
    place_P = np.arange(size, dtype=float)
    place_P[0], place_P[-1] = 0.5, 1.8 * (size - 2)
    return place_P


def _marks(colour: str, face: str | None = None) -> dict[str, Any]:
    return {
        "marker": "o",
        "markersize": 3.5,
        "markeredgecolor": colour,
        "markerfacecolor": face or colour,
    }


def _legend(figure: Figure, lines: Sequence[tuple[str, str]]) -> None:
    handles = [Line2D([], [], color=colour, label=name, **_marks(colour)) for name, colour in lines]
    handles.append(Line2D([], [], linestyle="", label="exactly 0", **_marks(INK, "none")))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), borderpad=0.4)
