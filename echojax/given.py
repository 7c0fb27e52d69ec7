"""Checks of arguments from Python: each returns the value, or raises a ``UserError``."""

import operator
import os
from pathlib import Path

import numpy as np

from echojax.errors import UserError


def given_path(name: str, value: object) -> Path:
    """Return a path."""
    try:
        path = Path(value)  # type: ignore[arg-type]  # it may be anything
        if b"\0" not in os.fsencode(path):
            return path
    except (TypeError, UnicodeError):
        pass
    raise UserError(f"{name} must be a path, not {value!r:.80}")


def given_number(name: str, value: object) -> int:
    """Return a whole number from 1."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:  # an array of several too
        raise UserError(f"{name} must be a whole number, not {value!r:.80}") from None
    if number < 1:
        raise UserError(f"{name} must be at least 1, not {number}")
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
