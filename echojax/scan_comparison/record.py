"""The folder of a comparison: results written whole after every problem, and read to go on."""

import csv
import io
from datetime import date
from pathlib import Path
from typing import Any

from echojax import measured_folder
from echojax.files import write_atomically, write_json
from echojax.measured_folder import Results
from echojax.scan_comparison.measure import Row
from echojax.scan_comparison.settings import Settings, Shape

COLUMNS = (
    "batch", "length", "channels", "states", "dtype", "implementation", "pass", "status",
    "median_seconds", "min_seconds", "repeats", "compile_seconds", "memory_bytes",
    "device_peak_bytes", "ns_per_element", "floor_seconds", "floor_share",
)  # fmt: skip


def read_unfinished(folder: Path, settings: Settings, machine: dict[str, Any]) -> Results | None:
    """Return what a folder holds of this very comparison; see ``measured_folder``."""
    return measured_folder.read_unfinished(
        folder, "a comparison of scans", "rows", settings.as_json(), machine
    )


def new_results(
    command: str, settings: Settings, machine: dict[str, Any], not_here: dict[str, str]
) -> Results:
    """Return a comparison without rows."""
    return {
        "command": command,
        "date": date.today().isoformat(),
        "machine": machine,
        "settings": settings.as_json(),
        "not_here": not_here,
        "roofline": None,
        "finished": False,
        "rows": [],
    }


def rows_of(results: Results, shape: Shape, dtype: str) -> list[Row]:
    """Return the rows of one problem, none where it has not been measured."""
    wanted = shape._asdict() | {"dtype": dtype}
    return [row for row in results["rows"] if wanted.items() <= row.items()]


def problems_of(results: Results) -> list[tuple[Shape, str]]:
    """Return the shapes and dtypes that were measured, in order."""
    keys = [(*(row[name] for name in Shape._fields), row["dtype"]) for row in results["rows"]]
    return [(Shape(*key[:4]), key[4]) for key in dict.fromkeys(keys)]


def write_results(folder: Path, results: Results) -> None:
    """Write ``results.json`` and ``results.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", results)
    write_atomically(folder / "results.csv", _csv(results["rows"]))


def worst_gradient(row: Row) -> float | None:
    """Return the largest error among the gradients; ``None`` without any."""
    errors = row["errors"] or {}
    return max((value for name, value in errors.items() if name != "y"), default=None)


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, "value_error", "gradient_error", "reason"])
    for row in rows:
        value_error = (row["errors"] or {}).get("y")
        writer.writerow(
            [*(row[name] for name in COLUMNS), value_error, worst_gradient(row), row["reason"]]
        )
    return text.getvalue()
