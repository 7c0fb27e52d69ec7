"""Describe a file or a named data set, without training."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import tyro

from echojax.command_line import logged_terminal, parse
from echojax.errors import UserError, escaped, unknown_name
from echojax.flags import ReadingFlags


@dataclass(frozen=True, kw_only=True)
class Flags(ReadingFlags):
    """Show what a data set is, what was guessed, and what the order of its events decides."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """A file, a folder of parts, a pattern, or the name of a data set."""
    json: bool = False
    """Print all of it as JSON."""


def main(words: list[str]) -> None:
    """Run the command."""
    flags = parse(Flags, args=words)
    # These take seconds to import, which help does without.
    from echojax.data import DATASETS, Columns, Preparation, description_of, is_name
    from echojax.evaluation.order import certify
    from echojax.report.data_tables import data_tables, order_table

    named = is_name(flags.data) and not Path(flags.data).exists()
    if named and flags.data not in DATASETS:
        raise unknown_name("file or data set", flags.data, list(DATASETS))
    console = logged_terminal()
    found = description_of(
        flags.data if named else "",
        data_path=None if named else flags.data,
        data_dir=flags.data_dir,
        columns=Columns.of(flags),
        preparation=Preparation.of(flags),
    )
    certificate, problem = None, found.problem
    if found.after is not None:
        try:
            certificate = certify(found.prepare, found.preparation)
        except UserError as error:  # too little for a test
            problem = str(error)
    if flags.json:
        shown = vars(found).copy()
        del shown["prepare"]
        shown |= asdict(shown.pop("preparation"))
        shown |= {"layout": found.layout and str(found.layout), "problem": problem}
        sys.stdout.write(msgspec.json.encode(shown | {"order": certificate}).decode() + "\n")
        return
    tables = data_tables(found)
    for table in [*tables, order_table(certificate)] if certificate else tables:
        console.print(table.terminal())
        console.print()
        for note in table.notes:
            console.print(note, soft_wrap=True)
    if problem and problem != found.problem:
        console.print(escaped(problem), soft_wrap=True)
