"""What tests of reading share: files to histories."""

from pathlib import Path

from echojax.data.formats import Columns
from echojax.data.prepare import time_order
from echojax.data.readers import Interactions, read_interactions
from echojax.data.text import TextFile


def read(path: Path, data_format: str | None = None, **columns: str) -> Interactions:
    """Return a file's interactions."""
    return read_interactions(TextFile(path), data_format, Columns(**columns))[0]


def histories(source: Interactions) -> dict[str, list[str]]:
    """Return each user's items in time order."""
    found: dict[str, list[str]] = {}
    for event in time_order(source.users_T, source.times_T):
        user, item = source.users_T[event], source.items_T[event]
        found.setdefault(str(source.user_ids[user]), []).append(str(source.item_ids[item]))
    return found
