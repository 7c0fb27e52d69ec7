"""The page and its files, from what the runs of a suite have left so far."""

from collections.abc import Sequence
from pathlib import Path

from echojax.files import write_atomically
from echojax.reproduction.cells import Cell
from echojax.reproduction.csv_files import csv_files
from echojax.reproduction.other_tables import cost_table, protocol_table, published_table
from echojax.reproduction.record import Record
from echojax.reproduction.score_tables import (
    ablation_table,
    length_table,
    otherwise_table,
    score_table,
)
from echojax.reproduction.suite import Suite
from echojax.reproduction.summary import DataSummary, summarise
from echojax.reproduction.table import Table


def write_page(out: Path, suite: Suite, cells: Sequence[Cell], record: Record) -> list[DataSummary]:
    """Write page, tables and pictures of whatever is finished; return what they say."""
    # matplotlib: half a second, only now.
    from echojax.reproduction.html_page import html_page
    from echojax.reproduction.markdown import markdown_page
    from echojax.reproduction.pictures import pictures

    parts = [summarise(suite, cells, data.name) for data in suite.datasets]
    drawn = {part.name: pictures(part, suite.reference) for part in parts}
    tables = {part.name: tables_of(part, suite.reference) for part in parts}
    for picture in (picture for several in drawn.values() for picture in several):
        write_atomically(out / picture.name, picture.content)
    for name, text in csv_files(parts).items():
        write_atomically(out / name, text)
    write_atomically(out / "page.md", markdown_page(suite, record, parts, tables, drawn))
    write_atomically(out / "page.html", html_page(suite, record, parts, tables, drawn))
    return parts


def tables_of(part: DataSummary, reference: str) -> list[Table]:
    """Return the tables that have something to say, in the order of the page."""
    tables = [
        score_table(part, reference),
        otherwise_table(part, reference),
        ablation_table(part, reference),
        length_table(part),
        cost_table(part),
        protocol_table(part),
        published_table(part),
    ]
    return [table for table in tables if table.rows]
