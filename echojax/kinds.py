"""Values against the kinds that a dataclass states for its fields."""

import types
import typing
from typing import Any, Literal


def fits(value: Any, kind: Any) -> bool:
    """Say whether a JSON or TOML value is of a kind: a plain type, ``Literal`` or a union."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in typing.get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def words(kind: Any) -> str:
    """Return what values a kind has."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        return " or ".join(repr(value) for value in typing.get_args(kind))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(words(one) for one in typing.get_args(kind) if one is not type(None))
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}[kind]
