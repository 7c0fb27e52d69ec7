"""Readers: text in one of the known formats to coded interactions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from echojax.data.text import Block, read_blocks
from echojax.data.tokens import IdCodes, Spans, parse_numbers
from echojax.errors import UserError


@dataclass(frozen=True)
class Interactions:
    """Interactions as the source lists them.

    Attributes:
        users_T: int32 user codes, in order of first appearance.
        items_T: int32 item codes, in order of first appearance.
        times_T: float64, or None where the source has no time.
        user_ids: str, the user's own id by code.
        item_ids: str, the source's item id by code.
    """

    users_T: np.ndarray
    items_T: np.ndarray
    times_T: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray


@dataclass(frozen=True)
class Columns:
    """Names of the columns to use; None means the format's own."""

    user: str | None = None
    item: str | None = None
    time: str | None = None


# A block with the byte spans of its users, items and (where there are any) times.
Rows = tuple[Block, Spans, Spans, Spans | None]


def read_interactions(path: Path, data_format: str, columns: Columns) -> Interactions:
    """Read a whole file.

    Args:
        path: A text file, plain or gzip.
        data_format: A name in ``READERS``.
        columns: Column names, for formats with a header.

    Raises:
        UserError: The file cannot be read in this format; names file, line and value.
    """
    users, items, times = IdCodes("user id"), IdCodes("item id"), []
    for block, user, item, time in READERS[data_format](path, columns):
        users.add(block, user)
        items.add(block, item)
        if time is not None:
            times.append(parse_numbers(block, time, "time"))
    (users_T, user_ids), (items_T, item_ids) = users.finish(), items.finish()
    times_T = np.concatenate(times) if times else None
    if users_T.size == 0:
        raise UserError(f"{path}: no interactions below the header")
    return Interactions(users_T, items_T, times_T, user_ids, item_ids)


def _fields(block: Block, delimiter: bytes, count: int) -> Spans:
    """Return the spans of all fields, (lines, count), of a block whose lines have ``count``."""
    text = np.frombuffer(block.data, np.uint8)
    newline = text == ord("\n")
    breaks = np.flatnonzero(newline | (text == ord(delimiter)))
    ends_line = newline[breaks]
    starts = np.concatenate([[0], breaks[:-1] + 1])
    if b"\n\n" in block.data or block.data.startswith(b"\n"):
        opens_line = np.concatenate([[True], ends_line[:-1]])
        blank = ends_line & opens_line & (breaks == starts)
        breaks, starts, ends_line = breaks[~blank], starts[~blank], ends_line[~blank]
    expected = np.arange(1, breaks.size + 1) % count == 0
    wrong = np.flatnonzero(ends_line != expected)
    if wrong.size:
        start = int(starts[wrong[0]])
        line = block.data[block.data.rfind(b"\n", 0, start) + 1 :].split(b"\n", 1)[0]
        found = line.count(delimiter) + 1
        raise block.error(start, f"{found} fields where {count} are expected")
    return Spans(starts.reshape(-1, count), breaks.reshape(-1, count))


def _after_header(path: Path) -> tuple[str, Iterator[Block]]:
    """Return the first line and the blocks without it."""
    blocks = read_blocks(path)
    first = next(blocks)
    header, _, rest = first.data.partition(b"\n")

    def remaining() -> Iterator[Block]:
        if rest:
            yield Block(path, rest, first.first_line + 1)
        yield from blocks

    return header.decode("utf-8"), remaining()


def _column(path: Path, names: list[str], wanted: str) -> int:
    if wanted not in names:
        raise UserError(f"{path}: no column {wanted!r}; the file has {', '.join(names)}")
    return names.index(wanted)


def read_inter(path: Path, columns: Columns) -> Iterator[Rows]:
    """RecBole atomic file: tab separated, header of ``name:type``."""
    header, blocks = _after_header(path)
    names = [name.split(":")[0].strip() for name in header.split("\t")]
    user = _column(path, names, columns.user or "user_id")
    item = _column(path, names, columns.item or "item_id")
    timed = columns.time is not None or "timestamp" in names
    time = _column(path, names, columns.time or "timestamp") if timed else None
    for block in blocks:
        fields = _fields(block, b"\t", len(names))
        times = None if time is None else fields[:, time]
        yield block, fields[:, user], fields[:, item], times


READERS: dict[str, Callable[[Path, Columns], Iterator[Rows]]] = {"inter": read_inter}
