"""``page.md``: the same tables for a README or a pull request, with the pictures beside it."""

from collections.abc import Mapping, Sequence

from echojax.reproduction.about import about_data, about_suite, command_lines
from echojax.reproduction.pictures import Picture
from echojax.reproduction.record import Record
from echojax.reproduction.suite import Suite
from echojax.reproduction.summary import DataSummary
from echojax.reproduction.table import Cell, Table


def markdown_page(
    suite: Suite,
    record: Record,
    parts: Sequence[DataSummary],
    tables: Mapping[str, Sequence[Table]],
    pictures: Mapping[str, Sequence[Picture]],
) -> str:
    """Return the page as Markdown; arguments as for ``html_page``."""
    words = [f"# {suite.title}", *([suite.about] if suite.about else [])]
    words += [" · ".join(about_suite(suite, record, parts).subtitle)]
    words += [f"```bash\n{record['command']}\n```"]
    for part in parts:
        words += [f"## {part.name}", about_data(part), *part.problems]
        if part.unfinished:
            words.append(f"{len(part.unfinished)} runs are missing.")
        for table in tables[part.name]:
            words += [f"### {table.title}", _table(table), *table.notes]
        words += [
            f"![{picture.title}. {picture.caption}]({picture.name})"
            for picture in pictures[part.name]
        ]
        words += ["### Commands of each row's first seed", f"```bash\n{command_lines(part)}\n```"]
    return "\n\n".join(words) + "\n"


def _table(table: Table) -> str:
    numbers = len(table.head) - table.words
    rule = ["---", *("---" if i >= numbers else "---:" for i in range(1, len(table.head)))]
    lines = [[_escape(heading) for heading in table.head], rule]
    lines += [[_content(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _content(cell: Cell) -> str:
    text = f"**{_escape(cell.text)}**" if cell.best else _escape(cell.text)
    return f"{text} {_escape(cell.note)}" if cell.note else text


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
