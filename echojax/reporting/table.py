"""The results of a run as a table for the terminal; plain aligned text where there is none."""

from typing import Any

from rich.table import Table

from echojax.reporting.run_record import rows_of_metrics, systems_of


def results_table(results: dict[str, Any], part: str = "test") -> Table:
    """Return model, baselines and optimum side by side.

    Args:
        results: what ``results.json`` holds.
        part: "valid" or "test".
    """
    systems = systems_of(results, part)
    title = f"{part}: {results[part]['examples']:,} examples, ± half of the 95 % interval"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    for name in systems:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows_of_metrics(systems):
        table.add_row(row.label, *(_cell(value, row.digits) for value in row.values))
    return table


def _cell(value: tuple[float, tuple[float, float] | None], digits: int) -> str:
    mean, interval = value
    text = f"{mean:.{digits}f}"
    return text if interval is None else f"{text} ±{(interval[1] - interval[0]) / 2:.{digits}f}"
