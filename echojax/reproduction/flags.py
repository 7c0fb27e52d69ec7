"""Tables of train.py's flags, as a suite's file has them."""

import shlex
import typing
from typing import Any

from echojax.config import NOT_IN_SUITES, Config, flag, misfit
from echojax.errors import UserError, unknown_name
from echojax.reproduction.suite import Flags

_KINDS = typing.get_type_hints(Config)


def check_flags(table: Any, where: str) -> dict[str, Any]:
    """Return a table of flags, each with a value of its kind.

    Args:
        table: what the file has there.
        where: names file and table in messages.

    Raises:
        UserError: no table, or a flag that is unknown, not for a suite or of another kind.
    """
    if not isinstance(table, dict):
        raise UserError(f"{where} must be a table of flags, not {table!r}")
    for name, value in table.items():
        if name not in _KINDS:
            raise UserError(f"{where}: {unknown_name('flag', name, list(_KINDS))}")
        if name in NOT_IN_SUITES:
            raise UserError(f"{where}: {name} has no place in a suite; {NOT_IN_SUITES[name]}")
        if problem := misfit(name, value):
            raise UserError(f"{where}: {name} {problem}")
    return dict(table)


def train_command(flags: Flags, seed: int) -> str:
    """Return the command that makes the same run by itself."""
    line = ["python", "experiments/train.py"]
    for name, value in {**flags, "seed": seed}.items():
        if name == "dataset" and "data_path" in flags:
            continue
        if _KINDS[name] is bool:
            line.append(flag(name) if value else flag(f"no_{name}"))
        else:
            line += [flag(name), str(value)]
    return shlex.join(line)
