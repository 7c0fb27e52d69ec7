"""What tests of data share: files to events, events to histories, and small data sets."""

from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import strategies as st

from echojax.data import Columns, Dataset, Preparation, load_dataset
from echojax.data.events import Events, read_events
from echojax.data.text import TextFile

EVERYTHING = Preparation(k_core=0)

# Users' times; few distinct ones, so that some users have no training target at all.
users_times = st.lists(
    st.lists(st.integers(0, 30), min_size=1, max_size=12).map(sorted), min_size=1, max_size=9
)


def read(path: Path, data_format: str | None = None, **columns: str) -> Events:
    """Return a file's events."""
    return read_events([TextFile(path)], Columns(data_format=data_format, **columns))


def load(path) -> Dataset:
    """Return the data set of all events of a path, a pattern or a list of files."""
    return load_dataset(data_path=path, preparation=EVERYTHING)


def rows_of(events: Events) -> list[tuple[str, str, float | None]]:
    """Return user, item and time of each event in file order."""
    frame = events.frame.cast({"user": pl.String, "item": pl.String})
    return frame.rows() if frame.width == 3 else [(*row, None) for row in frame.rows()]


def in_time_order(rows) -> dict[str, list[str]]:
    """Return each user's items from (user, item, time); events of one time in the order of rows."""
    found: dict[str, list[str]] = {}
    for user, item, _ in sorted(rows, key=lambda row: row[2] or 0):  # stable
        found.setdefault(user, []).append(item)
    return found


def histories(events: Events) -> dict[str, list[str]]:
    """Return each user's items in time order."""
    return in_time_order(rows_of(events))


def items_by_user(dataset: Dataset) -> dict[str, list[str]]:
    """Return each user's items in time order."""
    ids, ends = dataset.item_ids[dataset.items_T], dataset.offsets[1:-1]
    items = [part.tolist() for part in np.split(ids, ends)]
    return dict(zip(dataset.user_ids.tolist(), items, strict=True))


def dataset_of(lengths, times=None, time="source") -> Dataset:
    """Return histories of these lengths, in which the number of an item tells its place."""
    total = sum(lengths)
    return Dataset(
        name="x",
        items_T=np.arange(1, total + 1, dtype=np.int32),
        times_T=np.arange(total, dtype=np.float64) if times is None else np.array(times, float),
        offsets=np.cumsum([0, *lengths]),
        user_ids=np.arange(len(lengths)).astype(str),
        item_ids=np.arange(total + 1).astype(str),
        fingerprint={"time": time},
    )
