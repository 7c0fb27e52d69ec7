"""The rows of one problem as a table: for the terminal and, as the same cells, for the page."""

from rich.table import Table

from echojax.scan_comparison.measure import Row
from echojax.scan_comparison.record import worst_gradient

HEADINGS = (
    "", "forward ms", "ns each", "of floor", "with backward ms", "ns each", "of floor",
    "MiB", "compile s", "value error", "gradient error",
)  # fmt: skip


def cells_of(rows: list[Row]) -> list[list[str]]:
    """Return a line an implementation: its name and what ``HEADINGS`` names.

    Memory, compile time and errors are those of the backward pass's program where there is one.
    """
    lines = []
    for name in dict.fromkeys(row["implementation"] for row in rows):
        forward, both = (
            next(row for row in rows if (row["implementation"], row["pass"]) == (name, which))
            for which in ("forward", "forward+backward")
        )
        lines.append([name, *_time_cells(forward), *_time_cells(both), *_other_cells(both)])
    return lines


def notes_of(rows: list[Row]) -> list[str]:
    """Return why programs have no times, one a line."""
    notes: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["status"] != "measured":
            key = (row["implementation"], row["status"], row["reason"])
            notes.setdefault(key, []).append(row["pass"])
    return [
        f"{name} ({' and '.join(passes)}) {status}: {reason}"
        for (name, status, reason), passes in notes.items()
    ]


def terminal_table(title: str, rows: list[Row]) -> Table:
    """Return the table of one problem, 80 letters wide; notes stand below."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 1, 0, 0),
        caption="\n".join(notes_of(rows)) or None,
        caption_justify="left",
    )
    shown = [column for column, heading in enumerate(HEADINGS) if heading != "compile s"]
    for column in shown:
        heading = HEADINGS[column].replace(" ", "\n")
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for line in cells_of(rows):
        table.add_row(*(line[column] for column in shown))
    return table


def milliseconds(seconds: float) -> str:
    """Return a time in ms with three digits."""
    return _three_digits(1e3 * seconds)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time_cells(row: Row) -> list[str]:
    if row["status"] != "measured":
        return [row["status"], "–", "–"]
    share = row["floor_share"]
    return [
        milliseconds(row["median_seconds"]), _three_digits(row["ns_per_element"]),
        f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %",
    ]  # fmt: skip


def _other_cells(row: Row) -> list[str]:
    memory, compiled, errors = row["memory_bytes"], row["compile_seconds"], row["errors"] or {}
    worst = worst_gradient(row)
    return [
        "–" if memory is None else _three_digits(memory / 2**20),
        "–" if compiled is None else f"{compiled:.2f}",
        f"{errors['y']:.1e}" if errors else "–",
        "–" if worst is None else f"{worst:.1e}",
    ]
