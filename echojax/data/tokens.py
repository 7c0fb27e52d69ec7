"""Tokens of a text block as NumPy arrays: ids to codes, numbers to float64.

A token is a byte span. Its bytes become 64-bit words (zero past the end), so that thousands of
ids are compared, sorted and grouped at once without a Python object for each.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from echojax.data.text import Block

MAX_ID_BYTES = 255
_LARGEST_ID = str(np.iinfo(np.int64).max).encode()
_KEEP_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)


@dataclass(frozen=True)
class Spans:
    """Where tokens lie in a block: bytes ``starts[i]:ends[i]``, both int64."""

    starts: np.ndarray
    ends: np.ndarray

    def __getitem__(self, index: Any) -> "Spans":
        return Spans(self.starts[index], self.ends[index])


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
    if (spans.ends - spans.starts).max(initial=0) > MAX_ID_BYTES:
        worst = int(np.argmax(spans.ends - spans.starts))
        raise _bad_number(block, spans, worst, column)
    text = words_as_bytes(token_words(block, spans))
    try:
        numbers = text.astype(np.float64)
    except ValueError:
        raise _bad_number(block, spans, _first_non_number(text), column) from None
    finite = np.isfinite(numbers)
    if not finite.all():
        raise _bad_number(block, spans, int(np.argmin(finite)), column)
    return numbers


def _first_non_number(text: np.ndarray) -> int:
    for i, token in enumerate(text.tolist()):
        try:
            float(token)
        except ValueError:
            return i
    raise AssertionError("NumPy and Python disagree on what a number is")


def _bad_number(block: Block, spans: Spans, i: int, column: str) -> Exception:
    start, end = int(spans.starts[i]), int(spans.ends[i])
    token = block.data[start : min(end, start + 40)].decode("utf-8", "replace")
    return block.error(start, f"{column} {token!r} is not a finite number")


@dataclass
class IdCodes:
    """Gives equal tokens equal codes, over many blocks.

    Attributes:
        column: What the ids are of, for error messages.
    """

    column: str
    _vocabularies: list[np.ndarray] = field(default_factory=list)
    _codes: list[np.ndarray] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many tokens were taken."""
        return sum(codes.size for codes in self._codes)

    def add(self, block: Block, spans: Spans) -> None:
        """Take a block's tokens.

        Raises:
            UserError: An id is empty, longer than ``MAX_ID_BYTES``, or a number beyond int64.
        """
        lengths = spans.ends - spans.starts
        if not lengths.size:
            return
        if not lengths.all():
            raise block.error(int(spans.starts[np.argmin(lengths)]), f"empty {self.column}")
        if lengths.max() > MAX_ID_BYTES:
            raise block.error(
                int(spans.starts[np.argmax(lengths)]),
                f"{self.column} of {lengths.max()} bytes; at most {MAX_ID_BYTES}",
            )
        words, codes = _unique_rows(token_words(block, spans))
        overflow = _beyond_int64(words_as_bytes(words))
        if overflow.size:
            first = int(spans.starts[np.argmax(np.isin(codes, overflow))])
            raise block.error(
                first,
                f"the {self.column} is a number that does not fit 64 bits; write it with a letter "
                "in front to use it as a name",
            )
        self._vocabularies.append(words)
        self._codes.append(codes.astype(np.int32))

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Return codes int32 (tokens,) in order of first appearance, and the ids (str) by code."""
        width = max(words.shape[1] for words in self._vocabularies)
        padded = [np.pad(w, ((0, 0), (0, width - w.shape[1]))) for w in self._vocabularies]
        words, merged = _unique_rows(np.concatenate(padded))
        starts = np.cumsum([0] + [len(w) for w in padded])
        codes = np.concatenate(
            [merged[start + block] for start, block in zip(starts, self._codes, strict=False)]
        ).astype(np.int32)
        order = _first_appearance(codes, len(words))
        rank = np.empty(order.size, np.int32)
        rank[order] = np.arange(order.size, dtype=np.int32)
        return rank[codes], np.strings.decode(words_as_bytes(words[order]), "utf-8")


def _unique_rows(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows of ``words`` and, for each row, the index of its equal."""
    if words.shape[1] == 1:
        distinct, codes = np.unique(words[:, 0], return_inverse=True)
        return distinct[:, None], codes
    order = np.lexsort(words.T)
    ordered = words[order]
    new = np.ones(len(words), bool)
    np.any(ordered[1:] != ordered[:-1], axis=1, out=new[1:])
    codes = np.empty(len(words), np.int64)
    codes[order] = np.cumsum(new) - 1
    return ordered[new], codes


def _beyond_int64(ids: np.ndarray) -> np.ndarray:
    """Return the indices of ids that are whole numbers too large for int64."""
    if ids.dtype.itemsize < len(_LARGEST_ID):
        return np.empty(0, np.int64)
    digits = np.strings.lstrip(np.strings.lstrip(ids, b"-"), b"0")
    length = np.strings.str_len(digits)
    large = (length > len(_LARGEST_ID)) | ((length == len(_LARGEST_ID)) & (digits > _LARGEST_ID))
    return np.flatnonzero(large & np.strings.isdigit(digits))


def _first_appearance(codes: np.ndarray, count: int) -> np.ndarray:
    """Return the codes 0..count-1 in the order in which they first appear."""
    first = np.empty(count, np.int64)
    # Written backwards, so that the earliest position of every code is the one that stays.
    first[codes[::-1]] = np.arange(codes.size - 1, -1, -1)
    return np.argsort(first)
