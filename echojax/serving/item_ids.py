"""Translation between the data's item ids and the model's item numbers."""

import json
import re
from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from echojax.data.gaps import log_gaps
from echojax.errors import UserError

_LATEST = 1e300  # a limit of times, so that their differences are finite
_NO_IDS = (float, np.floating, bytes, tuple, list, set, dict)
_HALF = re.compile("[\ud800-\udfff]")  # of a pair of JSON's escapes; files hold no such text


def check_list(what: str, items: object, of: str = "item ids") -> None:
    """Raise ``UserError`` if items are no list; a string would be read letter by letter."""
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise UserError(f"{what}: a list of {of} is wanted, not {items!r}; put it in brackets")


def typed_ids(text: str) -> list[str]:
    """Return the item ids in typed text, separated by white space, commas or semicolons.

    Ids that contain such characters can be typed as a JSON list. No-break spaces are part of an id,
    as in files.

    Raises:
        UserError: An id in a JSON list is no text that could be written.
    """
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list) and all(isinstance(item, str | int) for item in found):
            ids = [str(item) for item in found]
            if half := next(filter(_HALF.search, ids), None):
                raise UserError(
                    f"item {half!r:.50} holds half of a character; type the character itself"
                )
            return ids
    return [word for word in re.split(r"[\s,;]+", text, flags=re.ASCII) if word]


def with_times(words: Iterable[str]) -> list[tuple[str, int | float | None]]:
    """Return the (item, time) pairs of words ``item@time``; the time is ``None`` without one."""
    pairs = list[tuple[str, int | float | None]]()
    for word in words:
        item, _, text = word.rpartition("@")
        time: int | float | None = None
        with suppress(ValueError):
            time = int(text) if text.lstrip("-").isdecimal() else float(text)
        pairs.append((item, time) if item and time is not None else (word, None))
    return pairs


class ItemIds:
    """A two-way mapping between item ids and item numbers."""

    def __init__(self, item_ids_V: np.ndarray):
        self.item_ids_V = item_ids_V  # str (V,), by item number; number 0 is padding
        self._number = {item: n for n, item in enumerate(item_ids_V.tolist()) if n}

    def __len__(self) -> int:
        """Return the number of items V, with padding."""
        return len(self.item_ids_V)

    def number(self, item: object) -> int:
        """Return the number of an item; 0 if the item is unknown."""
        number = self._number.get(str(item), 0)
        if not number and isinstance(item, _NO_IDS):
            kind = "float" if isinstance(item, np.floating) else type(item).__name__
            raise UserError(
                f"item {item!r:.50} is of type {kind}, not an id; write ids as text or integers"
            )
        return number

    def numbers(self, items: Iterable[object]) -> tuple[np.ndarray, int]:
        """Return the numbers of the known items, int32, in order, and how many are unknown."""
        found = np.fromiter(map(self.number, items), np.int32)
        known = found[found > 0]
        return known, found.size - known.size

    def timed(self, history: Iterable[object], unit: float) -> tuple[np.ndarray, np.ndarray, int]:
        """Return numbers, log gaps and the count of unknown items of pairs (item, time)."""
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
        """Return the ids of items by their numbers."""
        return self.item_ids_V[numbers].tolist()
