"""``page.html``: everything about a suite on one page that asks for nothing from outside."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from echojax.reporting.html_tables import fact_table
from echojax.reproduction.about import about_data, about_suite, command_lines
from echojax.reproduction.pictures import Picture
from echojax.reproduction.record import Record
from echojax.reproduction.suite import Suite
from echojax.reproduction.summary import DataSummary
from echojax.reproduction.table import Cell, Table


def html_page(
    suite: Suite,
    record: Record,
    parts: Sequence[DataSummary],
    tables: Mapping[str, Sequence[Table]],
    pictures: Mapping[str, Sequence[Picture]],
) -> str:
    """Return the page's HTML.

    Args:
        suite: what was asked for.
        record: command, machine, dates.
        parts: one a data set.
        tables: of each data set, by name.
        pictures: likewise.
    """
    shown = "\n".join(_data(part, suite, tables[part.name], pictures[part.name]) for part in parts)
    facts = about_suite(suite, record, parts)
    subtitle = " · ".join([suite.about, *facts.subtitle] if suite.about else facts.subtitle)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(suite.title)}</title>
<style>
{_style("echojax.reporting", "page.css")}{_style("echojax.reproduction", "suite_page.css")}</style>
</head>
<body>
<main>
<h1>{escape(suite.title)}</h1>
<p class="subtitle">{escape(subtitle)}</p>
<pre>{escape(str(record["command"]))}</pre>
{shown}
{_facts(facts.tables)}
<details><summary>The suite, {escape(suite.name)}.toml</summary>
<pre>{escape(suite.text)}</pre></details>
</main>
</body>
</html>
"""


def _data(
    part: DataSummary, suite: Suite, tables: Sequence[Table], pictures: Sequence[Picture]
) -> str:
    problems = "\n".join(
        f'<p class="note-below problem">{escape(line)}</p>' for line in part.problems
    )
    if part.unfinished:
        missing = f"{len(part.unfinished)} runs are missing: {', '.join(part.unfinished)}."
        problems += f'\n<p class="note-below">{escape(missing)}</p>'
    figures = "\n".join(
        f"<figure><h3>{escape(picture.title)}</h3>\n{picture.svg}"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    return f"""<h2 class="data">{escape(part.name)}</h2>
<p class="subtitle">{escape(about_data(part))}</p>
{problems}
{"".join(_table(table, suite.reference) for table in tables[:1])}
<div class="pictures">
{figures}
</div>
{"".join(_table(table, suite.reference) for table in tables[1:])}
<details><summary>The command of each row's first seed</summary>
<pre>{escape(command_lines(part))}</pre></details>"""


def _table(table: Table, reference: str) -> str:
    numbers = len(table.head) - table.words
    head = "".join(
        f"<th{_class('words' if i >= numbers else '')}>{escape(heading)}</th>"
        for i, heading in enumerate(table.head)
    )
    body = "\n".join(
        f"<tr{_class('reference' if row[0].text == reference else '')}>"
        f"<th>{_content(row[0])}</th>"
        + "".join(
            f"<td{_class('words' if i >= numbers else 'best' if cell.best else '')}>"
            f"{_content(cell)}</td>"
            for i, cell in enumerate(row[1:], 1)
        )
        + "</tr>"
        for row in table.rows
    )
    notes = "\n".join(f'<p class="note-below">{escape(note)}</p>' for note in table.notes)
    return (
        f'<h3>{escape(table.title)}</h3>\n<div class="scroll"><table class="numbers"><thead><tr>'
        f"{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n{notes}\n"
    )


def _content(cell: Cell) -> str:
    note = f' <span class="interval">{escape(cell.note)}</span>' if cell.note else ""
    return escape(cell.text) + note


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _facts(tables: Mapping[str, Mapping[str, Any]]) -> str:
    sections = "\n".join(
        f"<section><h2>{escape(title)}</h2>\n{fact_table(dict(facts))}</section>"
        for title, facts in tables.items()
    )
    return f'<div class="facts">\n{sections}\n</div>'


def _style(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")
