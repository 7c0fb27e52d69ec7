"""A table as text: HTML, Markdown and the terminal print the same cells."""

from typing import NamedTuple

from echojax.reproduction.scores import Estimate


class Cell(NamedTuple):
    """A value, what stands smaller beside it, and whether it is the best of its kind."""

    text: str
    note: str = ""
    best: bool = False


class Table(NamedTuple):
    """A table.

    Attributes:
        title: above it.
        head: the columns' headings, the first of the names.
        rows: each begins with its name.
        notes: sentences below it.
        words: how many of the last columns hold words, not numbers.
    """

    title: str
    head: list[str]
    rows: list[list[Cell]]
    notes: list[str]
    words: int = 0


NONE = Cell("–")


def estimate_cell(estimate: Estimate | None, best: float | None = None) -> Cell:
    """Return mean, interval and spread; ``best`` is the highest mean it is compared with."""
    if estimate is None:
        return NONE
    notes = []
    if estimate.interval is not None:
        notes.append("[{:.4f}, {:.4f}]".format(*estimate.interval))
    if estimate.spread is not None:
        notes.append(f"±{estimate.spread:.4f}")
    return Cell(f"{estimate.mean:.4f}", " ".join(notes), best=estimate.mean == best)


def number(value: float | None) -> str:
    """Return a number with three digits or so."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Return a time with three digits or so."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{seconds:,.0f} s"
