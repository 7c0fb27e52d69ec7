"""Say what a file or a named data set is, without training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from echojax.command_line import logged_terminal, parse
from echojax.config import NotNegative


@dataclass(frozen=True)
class Flags:
    """Show the columns, size, time span and history lengths of a data set, and what was guessed."""

    data: tyro.conf.Positional[str]
    """A file, a folder of parts, a pattern, or the name of a data set."""
    data_dir: str | None = None
    """Folder that holds the data sets' files (else $ECHOJAX_DATA, else the user's cache)."""
    data_format: str | None = None
    """Format of the file, where it is not recognised."""
    columns: str | None = None
    """Names of all columns of a file without a header, such as user,time,item,_."""
    user_column: str | None = None
    """Name of the user column."""
    item_column: str | None = None
    """Name of the item column."""
    time_column: str | None = None
    """Name of the time column."""
    time_format: str | None = None
    """How dates are written where they are not ISO 8601, such as '%d.%m.%Y %H:%M'."""
    missing_ids: Literal["refuse", "drop", "keep"] = "refuse"
    """What to do with rows whose user or item is missing (refuse counts them)."""
    k_core: NotNegative = 5
    """Users and items with fewer interactions are left out of the last column."""
    duplicates: Literal["keep", "first", "last"] = "keep"
    """What is done there with a user's repeated interactions with one item."""


def main(words: list[str]) -> None:
    """Run the command."""
    flags = parse(Flags, args=words)
    from echojax.data import DATASETS, Columns, describe  # half a second, which help does without
    from echojax.report.data_tables import data_tables

    named = flags.data in DATASETS and not Path(flags.data).exists()
    columns = Columns(
        flags.user_column,
        flags.item_column,
        flags.time_column,
        flags.columns,
        flags.time_format,
        flags.missing_ids,
        flags.data_format,
    )
    console = logged_terminal()
    tables = data_tables(
        describe(
            flags.data if named else "",
            data_path=None if named else flags.data,
            data_dir=flags.data_dir,
            columns=columns,
            k_core=flags.k_core,
            duplicates=flags.duplicates,
        )
    )
    for table in tables:
        console.print(table.terminal())
        console.print()
    for note in tables[-1].notes:
        console.print(note, soft_wrap=True)
