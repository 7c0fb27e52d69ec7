"""The rows as tables, a kind and batch each: models against lengths, or catalogues."""

import math

from rich.table import Table

from echojax.measured_folder import Results
from echojax.serving_bench.measure import Row

_TITLES = {
    "encode": "A whole history encoded",
    "event": "One more event taken in",
    "top-k": "The catalogue searched",
}


def tables(results: Results) -> list[Table]:
    """Return p50 and p99 in ms of everything that was measured."""
    rows: list[Row] = results["cases"]
    groups = dict.fromkeys((row["kind"], row["batch"]) for row in rows)
    return [
        _table(f"{_TITLES[kind]}, batch {batch}", kind, rows_of(rows, kind, batch))
        for kind, batch in groups
    ]


def rows_of(rows: list[Row], kind: str, batch: int) -> list[Row]:
    """Return the rows of one kind and batch."""
    return [row for row in rows if (row["kind"], row["batch"]) == (kind, batch)]


def growth(rows: list[Row]) -> float | None:
    """Return the power of the length that the median grows with, between the two longest."""
    line = sorted((row["length"], row["p50_seconds"]) for row in rows if row["p50_seconds"])
    if len(line) < 2:
        return None
    (shorter, before), (longer, behind) = line[-2:]
    return math.log(behind / before) / math.log(longer / shorter)


def _power(value: float | None) -> str:
    return "–" if value is None else f"length^{round(value, 1) + 0.0:g}"


def milliseconds(seconds: float) -> str:
    """Return a time in ms with three digits."""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(title: str, kind: str, rows: list[Row]) -> Table:
    axis = "catalogue" if kind == "top-k" else "length"
    table = Table(title=f"{title}: ms, p50 / p99", title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    columns = sorted({row[axis] for row in rows})
    for value in columns:
        table.add_column(f"{value:,}", justify="right")
    if kind != "top-k":
        table.add_column("grows as", justify="right", no_wrap=True)
    for model in dict.fromkeys(row["model"] for row in rows):
        own = {row[axis]: row for row in rows if row["model"] == model}
        cells = [_cell(own.get(value)) for value in columns]
        if kind != "top-k":
            cells.append(_power(growth(list(own.values()))))
        table.add_row(model or "best of all items", *cells)
    return table


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    if row["status"] != "measured":
        return str(row["status"])
    return f"{milliseconds(row['p50_seconds'])} / {milliseconds(row['p99_seconds'])}"
