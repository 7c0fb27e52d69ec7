"""JSON that is nearly right: values changed, keys lost, text broken."""

import json
import random
from typing import Any

from echojax.fuzzing.mutations import mutate_text

_ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**70, -(2**31), 1.5, 1e308, float("nan"), float("inf"), "", "0",
    "x" * 300, "\x00", "../..", "<script>", [], [[]], {}, {"": None}, [1, "a", None],
)  # fmt: skip


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Change values of a JSON document, or now and then its text."""
    if rng.random() < 0.3:
        return mutate_text(data, rng)
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        value = _changed(value, rng)
    return json.dumps(value).encode()


def mutate_json_lines(data: bytes, rng: random.Random) -> bytes:
    """Change one line's JSON, or the text."""
    if rng.random() < 0.5:
        return mutate_text(data, rng)
    lines = data.splitlines()
    i = rng.randrange(len(lines))
    lines[i] = mutate_json(lines[i], rng)
    return b"\n".join(lines) + b"\n"


def _changed(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with one part of it changed, or removed."""
    if rng.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return rng.choice(_ODD_VALUES)
    if isinstance(value, list):
        i = rng.randrange(len(value))
        return [
            *value[:i],
            *([] if rng.random() < 0.3 else [_changed(value[i], rng)]),
            *value[i + 1 :],
        ]
    key = rng.choice(list(value))
    rest = {name: one for name, one in value.items() if name != key}
    how = rng.random()
    if how < 0.2:
        return rest
    if how < 0.3:
        return rest | {rng.choice(("", "x", key.upper())): value[key]}
    return value | {key: _changed(value[key], rng)}
