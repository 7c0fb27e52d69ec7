"""What tests of reading share: files to events, and events to histories."""

from pathlib import Path

import polars as pl

from echojax.data import Columns
from echojax.data.events import Events, read_events
from echojax.data.text import TextFile


def read(path: Path, data_format: str | None = None, **columns: str) -> Events:
    """Return a file's events."""
    return read_events([TextFile(path)], Columns(data_format=data_format, **columns))


def rows_of(events: Events) -> list[tuple[str, str, float | None]]:
    """Return user, item and time of each event in file order."""
    frame = events.frame.cast({"user": pl.String, "item": pl.String})
    return frame.rows() if frame.width == 3 else [(*row, None) for row in frame.rows()]


def histories(events: Events) -> dict[str, list[str]]:
    """Return each user's items in time order; events of one time in file order."""
    rows = rows_of(events)
    found: dict[str, list[str]] = {}
    for user, item, _ in sorted(rows, key=lambda row: row[2] or 0):
        found.setdefault(user, []).append(item)
    return found
