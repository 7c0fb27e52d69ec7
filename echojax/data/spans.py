"""Where tokens lie in a block of text, and what they hold, as NumPy arrays.

A token is a byte span. Its bytes become 64-bit words (zero past the end), so that a million ids are
compared, sorted and grouped at once without a Python object for each.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from echojax.data.text import Block
from echojax.errors import UserError

MAX_TOKEN_BYTES = 255
_KEEP_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)


@dataclass(frozen=True)
class Spans:
    """Where tokens lie in a block: bytes ``starts[i]:ends[i]``, both int64."""

    starts: np.ndarray
    ends: np.ndarray

    def __getitem__(self, index: Any) -> "Spans":
        return Spans(self.starts[index], self.ends[index])


# A block with the byte spans of its users, items and (where there are any) times.
Rows = tuple[Block, Spans, Spans, Spans | None]


def split_fields(block: Block, delimiter: str, count: int) -> Spans:
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
        found = line.count(delimiter.encode()) + 1
        raise block.error(start, f"{found} fields where {count} are expected")
    return Spans(starts.reshape(-1, count), breaks.reshape(-1, count))


def split_words(block: Block) -> tuple[Spans, np.ndarray]:
    """Return the spans of words between white space, and the number in the block of their line."""
    text = np.frombuffer(block.data, np.uint8)
    newline = text == ord("\n")
    gap = newline | (text == ord(" ")) | (text == ord("\t"))
    starts = np.flatnonzero(~gap & np.concatenate([[True], gap[:-1]]))
    ends = np.flatnonzero(gap & ~np.concatenate([[True], gap[:-1]]))
    return Spans(starts, ends), np.searchsorted(np.flatnonzero(newline), starts)


def token_words(block: Block, spans: Spans) -> np.ndarray:
    """Return the tokens' bytes as words, uint64 (tokens, words), zero past each token's end."""
    lengths = spans.ends - spans.starts
    width = max(1, -(-int(lengths.max(initial=0)) // 8))
    padded = block.data + bytes(8)
    # Every byte offset seen as the start of a (possibly unaligned) little-endian word.
    words_at = np.ndarray((len(block.data) + 1,), "<u8", buffer=padded, strides=(1,))
    words = np.empty((lengths.size, width), np.uint64)
    for k in range(width):
        offsets = np.minimum(spans.starts + 8 * k, len(block.data))
        words[:, k] = words_at[offsets] & _KEEP_BYTES[np.clip(lengths - 8 * k, 0, 8)]
    return words


def words_as_bytes(words: np.ndarray) -> np.ndarray:
    """Return words (n, W) as n byte strings, dtype S(8W)."""
    return np.ascontiguousarray(words, "<u8").view(f"S{8 * words.shape[1]}")[:, 0]


def parse_numbers(block: Block, spans: Spans, column: str) -> np.ndarray:
    """Return the tokens as finite float64 numbers.

    Raises:
        UserError: A token is no number, NaN or infinite; names the line and the column.
    """
    if (spans.ends - spans.starts).max(initial=0) > MAX_TOKEN_BYTES:
        worst = int(np.argmax(spans.ends - spans.starts))
        raise _bad_number(block, spans, worst, column)
    text = words_as_bytes(token_words(block, spans))
    try:
        numbers = text.astype(np.float64)
    except ValueError:
        first = next(i for i in range(text.size) if not _is_number(text[i]))
        raise _bad_number(block, spans, first, column) from None
    finite = np.isfinite(numbers)
    if b"_" in block.data:  # Python's 1_000, but hardly anybody's
        finite &= np.strings.find(text, b"_") < 0
    if not finite.all():
        raise _bad_number(block, spans, int(np.argmin(finite)), column)
    return numbers


def _is_number(text: np.ndarray) -> bool:
    try:
        text.astype(np.float64)
    except ValueError:
        return False
    return True


def _bad_number(block: Block, spans: Spans, i: int, column: str) -> UserError:
    start, end = int(spans.starts[i]), int(spans.ends[i])
    token = block.data[start : min(end, start + 40)].decode("utf-8", "replace")
    return block.error(start, f"{column} {token!r} is not a finite number")
