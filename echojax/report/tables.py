"""Tables that can be written as HTML, as Markdown and on a terminal."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import rich.table

from echojax.command_line import printable


class Cell(NamedTuple):
    """A value as text, a note in smaller print, and whether the value is the best of its kind."""

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    header: str = ""  # above it
    align: Literal["left", "right"] = "right"  # "right" for numbers, "left" for words
    # The format of values that are neither ``Cell`` nor text: such as ".4f", or a function.
    show: str | Callable[[Any], str] = ""

    def cell(self, value: Any) -> Cell:
        """Return a value as a cell; ``None`` becomes a dash."""
        if isinstance(value, Cell):
            return value
        if value is None or isinstance(value, str):
            return Cell("–" if value is None else value)
        return Cell(self.show(value) if callable(self.show) else format(value, self.show))


@dataclass(frozen=True)
class Table:
    """A table whose rows begin with their names."""

    # The first column has the names of the rows; a string is the header of a column of numbers.
    columns: Sequence[Column | str]
    # The values of each row: ``Cell``, text, ``None``, or a value that the column formats.
    rows: Sequence[Sequence[Any]]
    title: str = ""  # above it
    notes: Sequence[str] = ()  # sentences below it
    highlight: str | None = None  # the name of a row to highlight

    @property
    def head(self) -> list[Column]:
        """All columns; the first one is aligned left."""
        first, *others = (Column(c) if isinstance(c, str) else c for c in self.columns)
        return [Column(first.header, "left", first.show), *others]

    @property
    def cells(self) -> list[list[Cell]]:
        """The cells of all rows."""
        head = self.head
        return [
            [column.cell(value) for column, value in zip(head, row, strict=True)]
            for row in self.rows
        ]

    def markdown(self) -> str:
        """Return header and rows as GitHub's Markdown, without title and notes."""
        head = self.head
        lines = [[_escaped(column.header) for column in head]]
        lines.append(["---" if column.align == "left" else "---:" for column in head])
        lines += [[_markdown(cell) for cell in row] for row in self.cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def terminal(self) -> rich.table.Table:
        """Return the table for a rich console; notes are left out."""
        table = rich.table.Table(
            title=self.title or None,
            title_justify="left",
            title_style="bold",
            box=None,
            pad_edge=False,
        )
        for column in self.head:
            table.add_column(column.header, justify=column.align, no_wrap=column.align == "right")
        for row in self.cells:
            table.add_row(*(f"{cell.text} {cell.note}".strip() for cell in row))
        return table


def _markdown(cell: Cell) -> str:
    text = f"**{_escaped(cell.text)}**" if cell.best else _escaped(cell.text)
    return f"{text} {_escaped(cell.note)}" if cell.note else text


def _escaped(text: str) -> str:
    return " ".join(in_markdown(text).replace("|", "\\|").splitlines())


def in_markdown(text: str) -> str:
    """Escape text for Markdown, so that it is neither HTML nor a link; show control characters."""
    return re.sub(r"\](\s?)(?=[\[(])", r"]\1\\", printable(text)).replace("<", "&lt;")


def number(value: float) -> str:
    """Return a number with about three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a duration with about three digits."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{seconds:,.0f} s"


def length_range(first: int, last: int | None) -> str:
    """Return a range of history lengths as text."""
    return f"{first}+" if last is None else f"{first}–{last}"


def words(value: Any) -> str:
    """Return a JSON value as text, for tables of facts."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.6g}"
        case dict():
            return ", ".join(f"{fact_name(key)}: {words(part)}" for key, part in value.items())
        case list() | tuple():
            return ", ".join(map(words, value))
    return str(value)


def fact_name(key: str) -> str:
    """Return a JSON key as text; the keys of quantiles are per cent."""
    return f"{key} %" if key.isdigit() else key.replace("_", " ")
