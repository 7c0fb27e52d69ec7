"""Inputs that are nearly right: bytes, lines and fields of valid ones, changed."""

import random
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]

_ODD_TOKENS = (
    b"", b" ", b"0", b"-0", b"-1", b"1e999", b"-1e308", b"nan", b"inf", b"1_000", b"0x10",
    b"9" * 400, b"9223372036854775807", b"9223372036854775808", b"1.5", b"1e5", b"\x00", b"\xff",
    b"\xef\xbb\xbf", b"\xed\xa0\x80", "\u2028\u0661\U0001f600".encode(), b'"', b'""', b"'", b"\\",
    b"\t", b"\n", b"\r", b"\r\n", b"\n\n", b",", b"::", b"|", b";", b":token", b"{", b"[" * 3000,
    b"}", b"null", b"#", b"=", b"a" * 300, b"\x1f\x8b", b"PK\x03\x04", b"../../etc/passwd", b"\x85",
)  # fmt: skip
_SEPARATORS = (b"\n", b"\t", b",", b"::", b" ", b"|", b'"', b":")


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """Change a text a few times: bytes, tokens, fields, lines."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        data = rng.choice(_TEXT)(data, rng)
    return data


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes, or cut, repeat or insert some."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_BYTES)(data, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randrange(len(data) + 1)


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(min(len(data), rng.choice((1, 1, 2, 8)))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start + rng.choice((1, 2, 7, 50, len(data))) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    piece = data[start : start + rng.choice((1, 8, 40, 300))]
    return data[:start] + piece * rng.choice((2, 3, 20)) + data[start:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + rng.choice(_ODD_TOKENS) + data[place:]


def _replace_token(data: bytes, rng: random.Random) -> bytes:
    """Put something odd in the place of one field."""
    separator = rng.choice(_SEPARATORS)
    fields = data.split(separator)
    fields[rng.randrange(len(fields))] = rng.choice(_ODD_TOKENS)
    return separator.join(fields)


def _swap_separator(data: bytes, rng: random.Random) -> bytes:
    count = rng.choice((1, 1, -1))
    return data.replace(rng.choice(_SEPARATORS), rng.choice(_SEPARATORS), count)


def _shuffle_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


def _windows(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n")))


_BYTES: tuple[Mutation, ...] = (_flip, _flip, _cut, _repeat, _insert)
_TEXT: tuple[Mutation, ...] = (
    *_BYTES, _replace_token, _replace_token, _replace_token, _swap_separator, _shuffle_lines,
    _windows,
)  # fmt: skip
