"""The folder of a benchmark: results written whole after every case, and read to go on."""

import csv
import io
import time
from datetime import date
from pathlib import Path
from typing import Any

from echojax.errors import UserError
from echojax.files import read_json, write_atomically, write_json
from echojax.serving_bench.measure import Row
from echojax.serving_bench.settings import Case, Settings

Results = dict[str, Any]


def default_folder() -> Path:
    """Return runs/serving-DATE-TIME."""
    return Path("runs") / time.strftime("serving-%Y%m%d-%H%M%S")


def read_unfinished(folder: Path, settings: Settings, machine: dict[str, Any]) -> Results | None:
    """Return what a folder holds of this very benchmark; ``None`` where it is new or empty.

    Raises:
        UserError: the folder is somebody else's, or of other settings or another machine.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if not (folder / "results.json").exists():
        raise UserError(f"--out {folder} has files but no results.json; name another folder")
    results = read_json(folder / "results.json")
    if not isinstance(results.get("cases"), list):
        raise UserError(f"{folder / 'results.json'} is not of a benchmark of serving")
    for kind, now in (("settings", settings.as_json()), ("machine", machine)):
        for name, value in now.items():
            before = results.get(kind, {}).get(name)
            if before != value:
                raise UserError(
                    f"--out {folder} was measured with {name.replace('_', ' ')} {before}, "
                    f"not {value}; name another folder"
                )
    return results


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
