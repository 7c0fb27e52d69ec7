"""Ids to codes: equal text, equal number, without a Python object for each occurrence."""

from dataclasses import dataclass, field

import numpy as np

from echojax.data.mixing import mix64
from echojax.data.spans import MAX_TOKEN_BYTES, Spans, token_words, words_as_bytes
from echojax.data.text import Block

_LARGEST_ID = str(np.iinfo(np.int64).max).encode()


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
            UserError: An id is empty, longer than ``MAX_TOKEN_BYTES``, or a number beyond int64.
        """
        lengths = spans.ends - spans.starts
        if not lengths.size:
            return
        if not lengths.all():
            raise block.error(int(spans.starts[np.argmin(lengths)]), f"empty {self.column}")
        if lengths.max() > MAX_TOKEN_BYTES:
            raise block.error(
                int(spans.starts[np.argmax(lengths)]),
                f"{self.column} of {lengths.max()} bytes; at most {MAX_TOKEN_BYTES}",
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
    hashes = np.zeros(len(words), np.uint64)
    for word in words.T:
        hashes = mix64(hashes ^ word)
    order = np.argsort(hashes)
    new = _differs_from_previous(words[order])
    if not np.array_equal(new, _differs_from_previous(hashes[order, None])):
        # Different rows share a hash: sort by the rows themselves, several times slower.
        order = np.lexsort(words.T)
        new = _differs_from_previous(words[order])
    codes = np.empty(len(words), np.int64)
    codes[order] = np.cumsum(new) - 1
    return words[order[new]], codes


def _differs_from_previous(rows: np.ndarray) -> np.ndarray:
    differs = np.zeros(len(rows), bool)
    differs[0] = True
    for column in rows.T:
        differs[1:] |= column[1:] != column[:-1]
    return differs


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
