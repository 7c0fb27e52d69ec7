"""The folder of a measurement: ``results.json``, with which a command goes on where it stopped."""

import time
from pathlib import Path
from typing import Any

from echojax.errors import UserError
from echojax.files import read_json

Results = dict[str, Any]


def default_folder(kind: str) -> Path:
    """Return runs/KIND-DATE-TIME."""
    return Path("runs") / time.strftime(f"{kind}-%Y%m%d-%H%M%S")


def read_unfinished(
    folder: Path, what: str, rows: str, settings: dict[str, Any], machine: dict[str, Any]
) -> Results | None:
    """Return what a folder holds of this very measurement; ``None`` where it is new or empty.

    Args:
        folder: as named by ``--out``.
        what: what such a folder holds, for the error line.
        rows: the key of the measured rows.
        settings: what is to be measured; every value must be as before.
        machine: what it is measured on; every value must be as before.

    Raises:
        UserError: the folder is somebody else's, or of other settings or another machine.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return None
    path = folder / "results.json"
    if not path.exists():
        raise UserError(f"--out {folder} has files but no results.json; name another folder")
    results = read_json(path)
    before: dict[str, Any] = {kind: results.get(kind) for kind in ("settings", "machine")}
    if not isinstance(results.get(rows), list) or not all(
        isinstance(values, dict) for values in before.values()
    ):
        raise UserError(f"{path} is not of {what}; name another folder")
    for kind, now in (("settings", settings), ("machine", machine)):
        for name, value in now.items():
            if before[kind].get(name) != value:
                raise UserError(
                    f"--out {folder} was measured with {name.replace('_', ' ')} "
                    f"{before[kind].get(name)}, not {value}; name another folder"
                )
    return results
