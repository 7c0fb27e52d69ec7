"""What a suite's folder remembers beside its runs: suite, command, machine."""

from pathlib import Path
from typing import Any

from echojax.errors import UserError
from echojax.files import read_json, write_json

Record = dict[str, Any]

_NAME = "suite.json"


def open_record(out: Path, suite: str, command: str, machine: dict[str, Any]) -> Record:
    """Return what a folder is to remember of this suite from now on.

    Args:
        out: the folder.
        suite: the suite's name.
        command: as it was given now.
        machine: from ``describe``.

    Raises:
        UserError: the folder is somebody else's, or of another suite.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    if out.exists() and any(out.iterdir()):
        read_record(out, suite)
    return {"suite": suite, "command": command, "machine": machine}


def read_record(out: Path, suite: str) -> Record:
    """Return what a folder remembers; ``UserError`` where it holds no such suite."""
    if not (out / _NAME).exists():
        raise UserError(f"--out {out} has no {_NAME} of a suite; name another folder")
    record = read_json(out / _NAME)
    if record.get("suite") != suite:
        raise UserError(f"--out {out} holds suite {record.get('suite')}, not {suite}")
    return record


def write_record(out: Path, record: Record) -> None:
    """Write the record, atomically."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / _NAME, record)
