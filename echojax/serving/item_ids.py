"""The data's own item ids and the model's item numbers."""

import json
import re
from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from echojax.data.gaps import log_gaps
from echojax.errors import UserError

_LATEST = 1e300  # so that differences of times are finite, too


def check_list(what: str, items: object, of: str = "item ids") -> None:
    """Raise ``UserError`` where items are no list; a string would be taken apart into letters."""
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise UserError(f"{what}: a list of {of} is wanted, not {items!r}; put it in brackets")


def typed_ids(text: str) -> list[str]:
    """Return the item ids that a user typed, between white space, commas and semicolons.

    Ids that hold some of these are typed as a JSON list. No-break spaces belong to ids, as in
    files.
    """
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list) and all(isinstance(item, str | int) for item in found):
            return [str(item) for item in found]
    return [word for word in re.split(r"[\s,;]+", text, flags=re.ASCII) if word]


def with_times(words: Iterable[str]) -> list[tuple[str, int | float | None]]:
    """Return the items and times of typed ``item@time``; without a time ``None``."""
    pairs = list[tuple[str, int | float | None]]()
    for word in words:
        item, _, text = word.rpartition("@")
        time: int | float | None = None
        with suppress(ValueError):
            time = int(text) if text.lstrip("-").isdecimal() else float(text)
        pairs.append((item, time) if item and time is not None else (word, None))
    return pairs


class ItemIds:
    """Translates both ways."""

    def __init__(self, item_ids_V: np.ndarray):
        self.item_ids_V = item_ids_V  # str (V,), by item number; number 0 is padding
        self._number = {item: n for n, item in enumerate(item_ids_V.tolist()) if n}

    def __len__(self) -> int:
        """Return V."""
        return len(self.item_ids_V)

    def number(self, item: object) -> int:
        """Return the item's number; 0 where it is unknown."""
        number = self._number.get(str(item), 0)
        if not number and isinstance(item, float | np.floating):
            raise UserError(f"item {item} is a float, not an id; write ids as text or integers")
        return number

    def numbers(self, items: Iterable[object]) -> tuple[np.ndarray, int]:
        """Return the known items' numbers, int32 in the order given, and how many are unknown."""
        found = np.fromiter(map(self.number, items), np.int32)
        known = found[found > 0]
        return known, found.size - known.size

    def timed(self, history: Iterable[object], unit: float) -> tuple[np.ndarray, np.ndarray, int]:
        """Return what ``numbers`` does of pairs (item, time), and the known items' log gaps."""
        items, times = list[object](), list[int | float]()
        for event in history:
            pair = event if isinstance(event, tuple | list) and len(event) == 2 else (event, None)
            item, time = pair[0], pair[1].item() if isinstance(pair[1], np.number) else pair[1]
            if (
                isinstance(time, bool)
                or not isinstance(time, int | float)
                or not abs(time) < _LATEST
            ):
                raise UserError(
                    f"item {item!r:.50} has no time, and this model reads the times between "
                    "events; write item@time, or (item, time) in Python, in the data's own unit"
                )
            if times and time < times[-1]:
                raise UserError(
                    f"item {item!r:.50} is at {time}, before the one ahead of it; histories are "
                    "ordered by time, oldest first"
                )
            items.append(item)
            times.append(time)
        found = np.fromiter(map(self.number, items), np.int32)
        whole = all(isinstance(time, int) and abs(time) < 1 << 63 for time in times)
        times_L = np.array(times, np.int64 if whole else np.float64)[found > 0]
        known = found[found > 0]
        return known, log_gaps(times_L, unit), found.size - known.size

    def ids(self, numbers: np.ndarray) -> list[str]:
        """Return the items' own ids."""
        return self.item_ids_V[numbers].tolist()
