"""JSON values against the shape that their reader counts on."""

import math
from typing import Any

# A shape is a type (float: any finite number), a dict of the keys that must be there, a dict whose
# only key is ``...`` for values of any key, a list of one shape for any number of values, or a
# tuple of shapes.
_WORDS = {float: "a finite number", int: "a whole number", str: "a string", dict: "an object"}


def misfit(value: Any, shape: Any, where: str = "it") -> str | None:
    """Return in words where ``value`` has not the shape; ``None`` where it has."""
    if isinstance(shape, dict):
        return _misfit_of_object(value, shape, where)
    if isinstance(shape, list | tuple):
        return _misfit_of_list(value, shape, where)
    if shape is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        good = number and abs(value) <= 1e300 and math.isfinite(value)
    else:
        good = isinstance(value, shape) and not (shape is int and isinstance(value, bool))
    return None if good else f"{where} must be {_WORDS[shape]}"


def _misfit_of_object(value: Any, shape: dict[Any, Any], where: str) -> str | None:
    if not isinstance(value, dict):
        return f"{where} must be an object"
    wanted = dict.fromkeys(value, shape[...]) if ... in shape else shape
    for key, one in wanted.items():
        if key not in value:
            return f"{where} has no {key!r}"
        if problem := misfit(value[key], one, repr(key)):
            return problem
    return None


def _misfit_of_list(value: Any, shape: list[Any] | tuple[Any, ...], where: str) -> str | None:
    if not isinstance(value, list):
        return f"{where} must be a list"
    if isinstance(shape, tuple) and len(value) != len(shape):
        return f"{where} must have {len(shape)} values"
    shapes = shape if isinstance(shape, tuple) else shape * len(value)
    problems = (misfit(one, wanted, where) for one, wanted in zip(value, shapes, strict=True))
    return next(filter(None, problems), None)
