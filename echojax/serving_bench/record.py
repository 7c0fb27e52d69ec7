"""The folder of a benchmark: results written whole after every case, and read to go on."""

import csv
import io
from datetime import date
from pathlib import Path
from typing import Any

from echojax import measured_folder
from echojax.files import write_atomically, write_json
from echojax.measured_folder import Results
from echojax.serving_bench.measure import Row
from echojax.serving_bench.settings import Case, Settings


def read_unfinished(folder: Path, settings: Settings, machine: dict[str, Any]) -> Results | None:
    """Return what a folder holds of this very benchmark; see ``measured_folder``."""
    return measured_folder.read_unfinished(
        folder, "a benchmark of serving", "cases", settings.as_json(), machine
    )


def new_results(command: str, settings: Settings, machine: dict[str, Any]) -> Results:
    """Return a benchmark without cases."""
    return {
        "command": command,
        "date": date.today().isoformat(),
        "machine": machine,
        "settings": settings.as_json(),
        "finished": False,
        "cases": [],
    }


def row_of(results: Results, case: Case) -> Row | None:
    """Return the row of a case; ``None`` where it has not been measured."""
    wanted = case._asdict().items()
    return next((row for row in results["cases"] if wanted <= row.items()), None)


def write_results(folder: Path, results: Results) -> None:
    """Write ``results.json`` and ``results.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", results)
    write_atomically(folder / "results.csv", _csv(results["cases"]))


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
