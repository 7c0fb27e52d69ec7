"""A suite: data sets x rows x seeds, and what is compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Flags = Mapping[str, Any]  # of train.py


@dataclass(frozen=True)
class Data:
    """A data set of a suite.

    Attributes:
        name: of the folder.
        flags: what says which data it is, and flags of every run on it.
        sample_users: so many users drawn from it; ``None``: all.
    """

    name: str
    flags: Flags
    sample_users: int | None = None


@dataclass(frozen=True)
class Row:
    """One line of a table: a model with its flags, which outdo the data set's."""

    name: str
    flags: Flags


@dataclass(frozen=True)
class Suite:
    """What a file describes.

    Attributes:
        name: the file's, without its ending.
        text: the file itself, for the page.
        title: of the page.
        about: a sentence or two below it.
        seeds: each row is trained with each.
        flags: of every run, below those of data set and row.
        reference: the row that all others are tested against.
        datasets: in the order of the page.
        rows: of the main table.
        ablation: rows that differ from the reference by their flags alone.
        timed_rows: rows that are trained on a global time split too.
        timed_datasets: names of the data sets on which they are.
    """

    name: str
    text: str
    title: str
    about: str
    seeds: tuple[int, ...]
    flags: Flags
    reference: str
    datasets: tuple[Data, ...]
    rows: tuple[Row, ...]
    ablation: tuple[Row, ...]
    timed_rows: tuple[str, ...]
    timed_datasets: tuple[str, ...]

    def row(self, name: str) -> Row:
        """Return a row, of the ablation too, by its name."""
        return next(row for row in (*self.rows, *self.ablation) if row.name == name)
