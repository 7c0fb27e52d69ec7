"""Readers: text in one of the known formats to coded interactions."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from echojax.data.formats import Columns, Layout, find_layout
from echojax.data.ids import IdCodes
from echojax.data.records import read_json_lines, read_quoted_csv
from echojax.data.spans import Rows, parse_numbers, split_fields, split_words
from echojax.data.text import Block, TextFile, read_blocks
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


def read_interactions(
    file: TextFile, data_format: str | None = None, columns: Columns | None = None
) -> tuple[Interactions, Layout]:
    """Read a whole file.

    Args:
        file: The text.
        data_format: A name in ``FORMATS``; None recognises it.
        columns: Column names, for formats with names.

    Returns:
        The interactions in file order, and how the file was read.

    Raises:
        UserError: The file cannot be read in this format; names file, line and value.
    """
    blocks = read_blocks(file)
    first = next(blocks)
    layout = find_layout(first, data_format, columns or Columns())
    blocks = itertools.chain([first], blocks)
    users, items, times = IdCodes("user id"), IdCodes("item id"), []
    for block, user, item, time in _rows(blocks, layout):
        users.add(block, user)
        items.add(block, item)
        if time is not None:
            times.append(parse_numbers(block, time, "time"))
    if not users.count:
        raise UserError(f"{file}: the file has no interactions")
    (users_T, user_ids), (items_T, item_ids) = users.finish(), items.finish()
    times_T = np.concatenate(times) if times else None
    return Interactions(users_T, items_T, times_T, user_ids, item_ids), layout


def _rows(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    if layout.has_header:
        blocks = _without_header(blocks)
    if layout.data_format == "pairs":
        return map(_pairs, blocks)
    if layout.data_format == "histories":
        return map(_histories, blocks)
    if layout.data_format == "jsonl":
        return read_json_lines(blocks, layout)
    return _delimited(blocks, layout)


def _without_header(blocks: Iterator[Block]) -> Iterator[Block]:
    first = next(blocks)
    skipped = first.data.lstrip(b"\n").partition(b"\n")[2]
    lines = first.data.count(b"\n") - skipped.count(b"\n")
    if skipped:
        yield Block(first.file, skipped, first.first_line + lines)
    yield from blocks


def _delimited(blocks: Iterator[Block], layout: Layout) -> Iterator[Rows]:
    for block in blocks:
        if layout.data_format == "csv" and b'"' in block.data:
            # A quoted field may hold delimiters and newlines: this block and all behind it.
            yield from read_quoted_csv(itertools.chain([block], blocks), layout)
            return
        delimiter = layout.delimiter
        if delimiter == "::":
            data = block.data.replace(b"::", b"\t")
            block, delimiter = Block(block.file, data, block.first_line), "\t"
        fields = split_fields(block, delimiter, len(layout.names))
        time = None if layout.time is None else fields[:, layout.time]
        yield block, fields[:, layout.user], fields[:, layout.item], time


def _pairs(block: Block) -> Rows:
    words, line = split_words(block)
    counts = np.bincount(line)
    wrong = np.flatnonzero((counts != 2) & (counts != 0))
    if wrong.size:
        start = int(words.starts[np.searchsorted(line, wrong[0])])
        raise block.error(start, f"{counts[wrong[0]]} words where a user and an item are expected")
    return block, words[0::2], words[1::2], None


def _histories(block: Block) -> Rows:
    words, line = split_words(block)
    opens = np.diff(line, prepend=-1) != 0
    user = np.flatnonzero(opens)[np.cumsum(opens) - 1]
    return block, words[user[~opens]], words[~opens], None
