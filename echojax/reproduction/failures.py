"""Why a run of a suite failed, in a file beside its folder: processes that share a suite agree."""

from pathlib import Path

from echojax.files import write_atomically
from echojax.reproduction.cells import Cell


def note_failure(cell: Cell, reason: str | None) -> None:
    """Write down why a run failed, in one line; ``None``: it did not."""
    path = _path(cell)
    if reason is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, reason + "\n")


def failure_of(cell: Cell) -> str | None:
    """Return why a run failed when it was last tried, if it did."""
    try:
        return _path(cell).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def _path(cell: Cell) -> Path:
    return cell.folder.with_name(f"{cell.folder.name}.failed")
