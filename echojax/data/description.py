"""A description of a data set: its columns, and its statistics before and after preparation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from echojax.data.dataset import Dataset, Preparation, prepare, repeated_pairs
from echojax.data.events import read_events
from echojax.data.frames import read_frame
from echojax.data.layouts import Columns, Layout
from echojax.data.load import DataPath, find_data, synthetic_dataset
from echojax.data.times import span
from echojax.errors import UserError

# The shortest history of each bin of the histogram.
LENGTHS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Numbers:
    """Statistics of the events of a data set."""

    users: int
    items: int
    events: int
    repeats: float  # share of events whose user has an earlier event with the same item
    # Share of a user's neighbouring events that have the same time; ``None`` without times.
    ties: float | None
    span: str | None  # first and last time; ``None`` without times
    per_user: dict[str, float]  # min, median and max of the events per user
    per_item: dict[str, float]  # the same per item
    histogram: tuple[int, ...]  # users by history length, in the bins of ``LENGTHS``


@dataclass(frozen=True)
class Description:
    """The description of a data set."""

    name: str
    files: tuple[str, ...]
    layout: Layout | None  # of its files; ``None`` if it has none
    notes: tuple[str, ...]  # sentences about what was guessed
    before: Numbers  # of all events
    preparation: Preparation
    after: Numbers | None  # of the events that are kept; None where too few are
    problem: str | None  # why ``after`` is None
    prepare: Callable[[Preparation], Dataset]  # prepares the events that were read


def description_of(
    name: str = "synthetic",
    *,
    data_path: DataPath | None = None,
    data_dir: Path | str | None = None,
    columns: Columns = Columns(),
    preparation: Preparation = Preparation(),
) -> Description:
    """Read a data set and describe it; the arguments are those of ``load_dataset``.

    Rows without a user or an item are left out, and a note says how many they are. It is no error
    if the preparation keeps too few events.
    """
    found = find_data(name, data_path=data_path, data_dir=data_dir, columns=columns)
    layout, notes = None, tuple[str, ...]()
    prepared: Callable[[Preparation], Dataset]
    if found.frame is not None:
        (events, _, notes), _ = read_frame(found.frame, columns)
        prepared = partial(prepare, found.name, events)
    elif not found.files:
        prepared = synthetic_dataset
    else:
        refuse = columns.missing == "refuse"
        columns = replace(columns, missing="drop") if refuse else columns
        events, layout, notes = read_events(found.files, columns)
        if refuse and notes and notes[-1].endswith(": left out"):
            more = "which training does with --missing-ids drop only"
            notes = (*notes[:-1], f"{notes[-1]}, {more}")
        prepared = partial(prepare, found.name, events)
    everything = replace(preparation, k_core=0, duplicates="keep")
    before, after, problem = numbers_of(prepared(everything)), None, None
    try:
        after = numbers_of(prepared(preparation))
    except UserError as error:
        problem = str(error)
    files = tuple(map(str, found.files))
    return Description(
        found.name, files, layout, notes, before, preparation, after, problem, prepared
    )


def numbers_of(dataset: Dataset) -> Numbers:
    """Return the statistics of a prepared data set."""
    lengths_U = np.diff(dataset.offsets)
    timed = dataset.fingerprint["time"] == "source"
    bins = np.searchsorted(LENGTHS, lengths_U, side="right") - 1
    return Numbers(
        users=dataset.num_users,
        items=dataset.num_items - 1,
        events=dataset.items_T.size,
        repeats=float(repeated_pairs(dataset.users_T, dataset.items_T, "first").mean()),
        ties=dataset.fingerprint["tie_share"] if timed else None,
        span=span(dataset.times_T) if timed else None,
        per_user=_spread(lengths_U),
        per_item=_spread(np.bincount(dataset.items_T)[1:]),
        histogram=tuple(np.bincount(bins, minlength=len(LENGTHS)).tolist()),
    )


def _spread(counts: np.ndarray) -> dict[str, float]:
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "max": int(counts.max()),
    }
