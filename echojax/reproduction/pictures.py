"""The pictures of a data set: scores, differences, history lengths, score against time."""

import io
from collections.abc import Callable
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from echojax.report.learned_figures import learned_pictures
from echojax.reporting.drawing import (
    BLUE,
    FAINT,
    GREY,
    INK,
    ORANGE,
    PAPER,
    drawing_style,
    to_svg,
)
from echojax.reproduction.draw import (
    Colours,
    draw_by_length,
    draw_differences,
    draw_scores,
    draw_time,
)
from echojax.reproduction.lines import Line
from echojax.reproduction.scores import Paired
from echojax.reproduction.summary import DataSummary

_PAGE = Colours(INK, FAINT, BLUE, ORANGE, GREY)  # stand-ins for the page's variables
_PAPER = Colours(**PAPER)


class Picture(NamedTuple):
    """A picture with the words around it.

    Attributes:
        title: above it.
        caption: below it.
        svg: for the page, which gives it its colours.
        name: of its file.
        content: of its file.
    """

    title: str
    caption: str
    svg: str
    name: str
    content: bytes


def pictures(data: DataSummary, reference: str) -> list[Picture]:
    """Draw what there is of a data set so far."""
    scored = [line for line in data.lines if line.hr is not None]
    drawn = []
    if scored:
        drawn.append(_scores(data.name, scored, reference))
    if tested := _tested(data.lines):
        drawn.append(
            _differences(data.name, "differences", f"Difference to {reference}", tested, reference)
        )
    if tested := _tested(data.ablation):
        drawn.append(
            _differences(data.name, "ablation", f"Ablation of {reference}", tested, reference)
        )
    # Of a single range there is nothing to see.
    if lines := [line for line in data.lines if len(line.by_length) > 1]:
        drawn.append(_lengths(data.name, lines, reference))
    timed = [line for line in scored if line.cost and line.cost.seconds_to_best]
    if len(timed) > 1:
        drawn.append(_time(data.name, timed, reference))
    return drawn + (_learned(data, reference) if data.learned else [])


def _tested(lines: list[Line]) -> list[Line]:
    return [line for line in lines if isinstance(line.paired, Paired)]


def _scores(data: str, lines: list[Line], reference: str) -> Picture:
    return _picture(
        f"{data}-scores",
        f"Test scores on {data}",
        f"Mean over seeds with 95 % bootstrap intervals over users; {reference} is set off. "
        "Overlapping intervals do not mean that two rows are equal: the paired test says that.",
        lambda colours: draw_scores(lines, reference, colours),
    )


def _differences(
    data: str, name: str, title: str, lines: list[Line], reference: str
) -> Picture:  # fmt: skip
    return _picture(
        f"{data}-{name}",
        f"{title} on {data}",
        "NDCG@10, differences user by user with 95 % intervals; right of the line a row is better "
        f"than {reference}. Filled: p below .05 after Holm's correction.",
        lambda colours: draw_differences(lines, colours),
    )


def _lengths(data: str, lines: list[Line], reference: str) -> Picture:
    return _picture(
        f"{data}-by-length",
        f"NDCG@10 by length of the history on {data}",
        f"{reference} with 95 % intervals over users, and the best of the other rows; the rest in "
        "grey. Below each range stands its number of test examples.",
        lambda colours: draw_by_length(lines, reference, colours),
    )


def _time(data: str, lines: list[Line], reference: str) -> Picture:
    return _picture(
        f"{data}-time",
        f"Score against training time on {data}",
        "Seconds in training steps up to the best epoch, mean over seeds, on the machines named on "
        "this page.",
        lambda colours: draw_time(lines, reference, colours),
    )


def _learned(data: DataSummary, reference: str) -> list[Picture]:
    assert data.learned is not None
    return [
        Picture(
            f"{one.title}: {reference} on {data.name}",
            f"{one.caption} First seed.",
            one.inline(),
            f"{data.name}-{one.name}.svg",
            one.svg(),
        )
        for one in learned_pictures(data.learned)
    ]


def _picture(name: str, title: str, caption: str, draw: Callable[[Colours], Figure]) -> Picture:
    with drawing_style():
        svg = to_svg(draw(_PAGE), name, f"{title}. {caption}")
    with drawing_style():
        pairs = dict(zip(_PAGE, _PAPER, strict=True))
        style = {k: pairs[v] for k, v in matplotlib.rcParams.items() if v in list(pairs)}
        matplotlib.rcParams.update(style)
        figure = draw(_PAPER)
        figure.suptitle(title, x=0.01, ha="left")
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format="png", dpi=150, transparent=False, metadata={"Software": None}
        )
    return Picture(title, caption, svg, f"{name}.png", buffer.getvalue())
