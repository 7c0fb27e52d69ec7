"""Inputs that are nearly right: bytes, fields, JSON values and archives of valid ones, changed.

Each mutation takes the valid bytes and a ``random.Random``, and returns other bytes.
"""

import gzip
import io
import json
import zipfile

_ODD_TOKENS = (
    b"", b" ", b"0", b"-0", b"-1", b"1e999", b"-1e308", b"nan", b"inf", b"1_000", b"0x10",
    b"9" * 400, b"9223372036854775807", b"9223372036854775808", b"1.5", b"1e5", b"\x00", b"\xff",
    b"\xef\xbb\xbf", b"\xed\xa0\x80", "\u2028\u0661\U0001f600".encode(), b'"', b'""', b"'", b"\\",
    b"\t", b"\n", b"\r", b"\r\n", b"\n\n", b",", b"::", b"|", b";", b":token", b"{", b"[" * 3000,
    b"}", b"null", b"#", b"=", b"a" * 300, b"\x1f\x8b", b"PK\x03\x04", b"../../etc/passwd", b"\x85",
)  # fmt: skip
_ODD_VALUES = (
    None, True, False, 0, -1, 1, 2**70, -(2**31), 1.5, 1e308, float("nan"), float("inf"), "", "0",
    "x" * 300, "\x00", "../..", "<script>", [], [[]], {}, {"": None}, [1, "a", None],
)  # fmt: skip
_SEPARATORS = (b"\n", b"\t", b",", b"::", b" ", b"|", b'"', b":")


def mutate_text(data, rng):
    """Change a text a few times: bytes, tokens, fields, lines."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        data = rng.choice(_TEXT)(data, rng)
    return data


def mutate_bytes(data, rng):
    """Change some bytes, or cut, repeat or insert some."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_BYTES)(data, rng)
    return data


def _flip(data, rng):
    changed = bytearray(data)
    for _ in range(min(len(data), rng.choice((1, 1, 2, 8)))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data, rng):
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 2, 7, 50, len(data))) :]


def _repeat(data, rng):
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 8, 40, 300))]
    return data[:start] + piece * rng.choice((2, 3, 20)) + data[start:]


def _insert(data, rng):
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(_ODD_TOKENS) + data[place:]


def _replace_token(data, rng):
    """Put something odd in the place of one field."""
    separator = rng.choice(_SEPARATORS)
    fields = data.split(separator)
    fields[rng.randrange(len(fields))] = rng.choice(_ODD_TOKENS)
    return separator.join(fields)


def _swap_separator(data, rng):
    count = rng.choice((1, 1, -1))
    return data.replace(rng.choice(_SEPARATORS), rng.choice(_SEPARATORS), count)


def _shuffle_lines(data, rng):
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


def _windows(data, rng):
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n")))


_BYTES = (_flip, _flip, _cut, _repeat, _insert)
_TEXT = (*_BYTES, *[_replace_token] * 3, _swap_separator, _shuffle_lines, _windows)


def mutate_json(data, rng):
    """Change values of a JSON document, or now and then its text."""
    if rng.random() < 0.3:
        return mutate_text(data, rng)
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        value = _changed(value, rng)
    return json.dumps(value).encode()


def mutate_json_lines(data, rng):
    """Change one line's JSON, or the text."""
    if rng.random() < 0.5:
        return mutate_text(data, rng)
    lines = data.splitlines()
    i = rng.randrange(len(lines))
    lines[i] = mutate_json(lines[i], rng)
    return b"\n".join(lines) + b"\n"


def _changed(value, rng):
    """Return a JSON value with one part of it changed, or removed."""
    if rng.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return rng.choice(_ODD_VALUES)
    if isinstance(value, list):
        i = rng.randrange(len(value))
        changed = [] if rng.random() < 0.3 else [_changed(value[i], rng)]
        return [*value[:i], *changed, *value[i + 1 :]]
    key = rng.choice(list(value))
    rest = {name: one for name, one in value.items() if name != key}
    how = rng.random()
    if how < 0.2:
        return rest
    if how < 0.3:
        return rest | {rng.choice(("", "x", key.upper())): value[key]}
    return value | {key: _changed(value[key], rng)}


def in_gzip(mutate):
    """Return a mutation of a text that stands in a gzip file, or of the gzip file's bytes."""

    def mutation(data, rng):
        if rng.random() < 0.6:
            return gzip.compress(mutate(data, rng), compresslevel=1, mtime=0)
        return mutate_bytes(gzip.compress(data, compresslevel=1, mtime=0), rng)

    return mutation


def _zip(members, how):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def in_zip(mutate, member):
    """Return a mutation of a text that is a member of an archive, or of the archive."""

    def packed(data, rng):
        how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        name = member if rng.random() < 0.95 else member[1:]
        return _zip({"../../outside": b"x", name: data}, how)

    def mutation(data, rng):
        if rng.random() < 0.5:
            return packed(mutate(data, rng), rng)
        return mutate_bytes(packed(data, rng), rng)

    return mutation


def mutate_npz(data, rng):
    """Change one array of an archive, most often its header, or the archive's bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(arrays))
    header, values = arrays[name][:128], arrays[name][128:]
    if rng.random() < 0.7:
        header = mutate_text(header, rng)
    else:
        values = mutate_bytes(values, rng)
    arrays[name] = header + values
    if rng.random() < 0.1:
        del arrays[rng.choice(list(arrays))]
    return _zip(arrays, zipfile.ZIP_STORED if rng.random() < 0.9 else zipfile.ZIP_DEFLATED)
