"""Checks of arguments from Python: each returns the value, or raises a ``UserError``."""

import operator
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from echojax.errors import UserError, unknown_name


def given_path(name: str, value: object) -> Path:
    """Return a path."""
    try:
        path = Path(value)  # type: ignore[arg-type]  # it may be anything
        if value != "" and b"\0" not in os.fsencode(path):
            return path
    except (TypeError, UnicodeError):
        pass
    raise UserError(f"{name} must be a path, not {value!r:.80}")


def given_number(name: str, value: object, *, least: int = 1) -> int:
    """Return a whole number that is not too small."""
    try:
        if isinstance(value, bool):  # which Python takes for 0 and 1
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:  # an array of several too
        raise UserError(f"{name} must be a whole number, not {value!r:.80}") from None
    if number < least:
        raise UserError(f"{name} must be at least {least}, not {number}")
    return number


def given_text(name: str, value: object) -> str:
    """Return text."""
    if not isinstance(value, str):
        raise UserError(f"{name} must be a string, not {value!r:.80}")
    return value


def given_switch(name: str, value: object) -> bool:
    """Return true or false."""
    if not isinstance(value, bool | np.bool_):
        raise UserError(f"{name} must be True or False, not {value!r:.80}")
    return bool(value)


def given_truth(name: str, value: object) -> bool:
    """Return whether what a function of the caller has returned is true."""
    try:
        if not isinstance(value, Awaitable):
            return bool(value)
    except (TypeError, ValueError):  # arrays and frames of several values
        pass
    kind = type(value).__name__
    raise UserError(f"{name} must return true or false, not a value of type {kind}")


def given_choice(name: str, value: Any, kind: Any) -> Any:
    """Return one of the values of a ``Literal``."""
    known = list(get_args(kind))
    if not isinstance(value, str) or value not in known:
        raise unknown_name(name, value, known)
    return value
