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


def mutate_bytes(data, rng):
    """Flip bits, or cut, repeat or insert a piece, a few times."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice((_flip, _splice))(data, rng)
    return data


def mutate_text(data, rng):
    """Change bytes, fields, separators or lines a few times."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        data = rng.choice((_flip, _splice, _replace_field, _separate_otherwise))(data, rng)
    return data


def _flip(data, rng):
    changed = bytearray(data)
    for _ in range(min(len(data), rng.choice((1, 1, 2, 8)))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _splice(data, rng):
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 2, 7, 40, 300, len(data)))]
    repeated = piece * min(rng.choice((2, 3, 20)), 2 + 2**16 // (len(piece) + 1))
    new = rng.choice((b"", repeated, rng.choice(_ODD_TOKENS) + piece))
    return data[:start] + new + data[start + len(piece) :]


def _replace_field(data, rng):
    separator = rng.choice(_SEPARATORS)
    fields = data.split(separator)
    fields[rng.randrange(len(fields))] = rng.choice(_ODD_TOKENS)
    return separator.join(fields)


def _separate_otherwise(data, rng):
    """Swap a separator once or everywhere, write other ends of lines, or shuffle lines."""
    if rng.random() < 0.3:
        lines = data.split(b"\n")
        rng.shuffle(lines)
        return rng.choice((b"\n", b"\r\n", b"\r", b"\n\n")).join(lines)
    return data.replace(rng.choice(_SEPARATORS), rng.choice(_SEPARATORS), rng.choice((1, 1, -1)))


def mutate_json(data, rng):
    """Change values of a JSON document, or now and then its text."""
    if rng.random() < 0.3:
        return mutate_text(data, rng)
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        value = _changed(value, rng)
    return json.dumps(value).encode()


def _changed(value, rng):
    """Return a JSON value with one part of it changed, renamed or removed."""
    if rng.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return rng.choice(_ODD_VALUES)
    if isinstance(value, list):
        i = rng.randrange(len(value))
        changed = [] if rng.random() < 0.3 else [_changed(value[i], rng)]
        return [*value[:i], *changed, *value[i + 1 :]]
    name, how = rng.choice(list(value)), rng.random()
    rest = {other: one for other, one in value.items() if other != name}
    if how < 0.2:
        return rest
    if how < 0.3:
        return rest | {rng.choice(("", "x", name.upper())): value[name]}
    return value | {name: _changed(value[name], rng)}


def mutate_json_lines(data, rng):
    """Change one line's JSON, or the text."""
    if rng.random() < 0.5:
        return mutate_text(data, rng)
    lines = data.splitlines()
    i = rng.randrange(len(lines))
    lines[i] = mutate_json(lines[i], rng)
    return b"\n".join(lines) + b"\n"


def in_gzip(data, rng):
    """Change a text that stands in a gzip file, or the file's bytes."""
    inside = rng.random() < 0.6
    packed = gzip.compress(mutate_text(data, rng) if inside else data, compresslevel=1, mtime=0)
    return packed if inside else mutate_bytes(packed, rng)


def in_zip(member):
    """Return a mutation of a text that is a member of an archive, or of the archive."""

    def mutation(data, rng):
        inside, how = rng.random() < 0.5, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        name = member if rng.random() < 0.95 else member[1:]
        content = mutate_text(data, rng) if inside else data
        packed = _zip({"../../outside": b"x", name: content}, how)
        return packed if inside else mutate_bytes(packed, rng)

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


def _zip(members, how):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()
