"""What the terminal shows at the end: times, training, and what failed."""

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from echojax.gpu.record import Row
from echojax.scan_comparison.programs import PASSES

_CHECKED = ("checks", "model", "timings", "directions", "training")


def failures(document: dict[str, Any]) -> list[Row]:
    """Return the rows that failed."""
    return [row for rows in _sections(document).values() for row in rows if _is(row, "failed")]


def print_summary(document: dict[str, Any], console: Console) -> None:
    """Print the tables and, at the end, what failed."""
    for name in ("timings", "directions"):
        for problem in document.get(name, []):
            if "programs" in problem:
                console.print(_times(f"{name}: {problem['name']}", problem["programs"]))
    console.print(_counts(document))
    for row in failures(document):
        console.print(f"failed: {row['name']}: {row['reason']}", highlight=False, markup=False)


def _times(title: str, programs: list[Row]) -> Table:
    table = _table(
        title, ["", "ms alone", "ms queued", "quartiles", "x floor", "temporary MiB", "error"]
    )
    for which in PASSES:
        for row in (row for row in programs if row["pass"] == which):
            name = f"{row['implementation']}{' +bwd' if which != 'forward' else ''}"
            temporary = row.get("memory", {}).get("temporary")
            errors = [e for e in row.get("errors", {}).values() if e is not None]
            if row["status"] == "measured":
                low, high = row["queued"]["quartiles_seconds"]
                cells = [
                    _ms(row["alone"]["median_seconds"]), _ms(row["queued"]["median_seconds"]),
                    f"{_ms(low)}-{_ms(high)}",
                    f"{row['times_floor']:.3g}" if "times_floor" in row else "",
                ]  # fmt: skip
            else:
                cells = [row["status"], "", "", ""]
            memory = "" if temporary is None else f"{temporary / 2**20:,.0f}"
            table.add_row(name, *cells, memory, f"{max(errors):.0e}" if errors else "")
    return table


def _counts(document: dict[str, Any]) -> Table:
    table = _table("summary", ["", "passed or measured", "failed", "skipped"])
    for name, rows in _sections(document).items():
        counts = Counter(row["status"] for row in rows)
        good = counts["passed"] + counts["measured"]
        table.add_row(name, str(good), str(counts["failed"]), str(counts["skipped"]))
    return table


def _sections(document: dict[str, Any]) -> dict[str, list[Row]]:
    return {name: document[name] for name in ("roofline", *_CHECKED) if name in document}


def _is(row: Row, status: str) -> bool:
    return row["status"] == status


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def _table(title: str, headings: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    return table
