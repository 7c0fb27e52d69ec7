"""Spaces: which flags a search may set, and to what, checked before anything is trained."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from echojax.config import (
    KINDS,
    NOT_IN_SUITES,
    OF_TRAINING,
    RESUMABLE,
    Config,
    as_flags,
    flag,
    from_values,
    with_fields,
)
from echojax.errors import UserError, unknown_name
from echojax.models import HEURISTICS, MODELS, own_options
from echojax.recipes import included_recipes, read_space
from echojax.training.builders import resolved

DEFAULT = Path(__file__).with_name("space.toml")
_FIXED = RESUMABLE | NOT_IN_SUITES.keys() | {"model", "scan", "pack", "eval_every"}
_KNOBS = [name for name in OF_TRAINING if name not in _FIXED]

# Values that a search can set flags to.
Values: TypeAlias = dict[str, bool | int | float | str]


class Range(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Numbers from ``low`` to ``high``, whole ones if both are; on a log scale if ``log``."""

    low: int | float
    high: int | float
    log: bool = False


class Choices(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Some values, in no order."""

    choices: list[bool | int | float | str]


Space: TypeAlias = dict[str, Range | Choices]


def find_space(
    config: Config, *, file: str | None, recipe: str | None, fixed: Collection[str] = ()
) -> Space:
    """Return the space of a search: of ``file``, else of the recipe, the data set, the default.

    ``config`` is resolved; the flags in ``fixed`` have given values, so they are not searched.
    """
    if file is not None:
        path, name = Path(file), "--space"
        if not (entries := read_space(path, config.model, name, config.variant)):
            raise UserError(f"--space {file} has no [space] for {config.model}; write one")
        return check_space(entries, config, str(path), fixed)
    known = None if config.data_path else included_recipes(config.dataset)
    recipes = known if recipe in (None, "best") else Path(recipe)
    for place in (recipes, DEFAULT):
        if place and (entries := read_space(place, config.model, "--recipe", config.variant)):
            break
    return check_space(entries, config, str(place), fixed)


def check_space(
    entries: Mapping[str, Any], config: Config, where: str, fixed: Collection[str] = ()
) -> Space:
    """Return the space of entries from TOML or Python, without the flags in ``fixed``.

    Entries are ``{low, high, log}`` or ``{choices}`` by flag, and each of their values must be
    valid in the resolved configuration; ``where`` names their source in errors.
    """
    if config.model in HEURISTICS:
        raise UserError(f"--model {config.model} is not trained: there is nothing to search")
    own = own_options(MODELS[config.model])
    space: Space = {}
    for name, entry in entries.items():
        if name in KINDS and name not in _KNOBS:
            raise UserError(f"{where}: {name} cannot be searched; give it as a flag")
        if name not in _KNOBS and name not in own:
            raise UserError(f"{where}: {unknown_name('flag in the space', name, [*_KNOBS, *own])}")
        try:
            knob = _knob(entry)
            ends = knob.choices if isinstance(knob, Choices) else (knob.low, knob.high)
            changed = [set_flags(config, {name: one}) for one in ends]
            for one in changed:
                resolved(one, in_memory=True)
        except UserError as error:
            raise UserError(f"{where}: {name} in the space: {error}") from None
        if name not in fixed:
            # As the flag has them: a share from 0 to 1 is no whole number.
            values = [as_flags(one)[name] for one in changed]
            space[name] = (
                Range(values[0], values[1], knob.log)
                if isinstance(knob, Range)
                else Choices(values)
            )
    if not space:
        given = f"; leave one of {', '.join(map(flag, entries))} out" if entries else ""
        raise UserError(f"{where}: there is nothing to search{given}")
    return space


def set_flags(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a configuration with some flags set, among them the model's own options."""
    return with_fields(config, from_values(values, own_options(MODELS[config.model])))


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return a space as Optuna has it."""
    found: dict[str, BaseDistribution] = {}
    for name, knob in space.items():
        if isinstance(knob, Choices):
            found[name] = CategoricalDistribution(knob.choices)
        elif isinstance(knob.low, int) and isinstance(knob.high, int):
            found[name] = IntDistribution(knob.low, knob.high, log=knob.log)
        else:
            found[name] = FloatDistribution(knob.low, knob.high, log=knob.log)
    return found


def _of_numpy(value: Any) -> Any:
    """Return a scalar or an array of NumPy as Python has it."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__}")


def as_written(value: bool | int | float | str) -> str:
    """Return a value of a knob with three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def as_words(knob: Range | Choices) -> str:
    """Return the values that a knob may have, in words."""
    if isinstance(knob, Choices):
        return ", ".join(map(str, knob.choices))
    return f"{knob.low:g} to {knob.high:g}{', on a log scale' if knob.log else ''}"


def _knob(entry: Any) -> Range | Choices:
    """Return an entry of a space; ``UserError`` if it is not one."""
    kind: type[Range | Choices] = Range
    if isinstance(entry, Mapping) and "choices" in entry:
        kind = Choices
    try:
        knob = msgspec.convert(msgspec.to_builtins(entry, enc_hook=_of_numpy), kind)
    except (msgspec.ValidationError, TypeError) as error:
        raise UserError(
            f"must be {{low, high}}, {{low, high, log = true}} or {{choices}}, not {entry!r:.80} "
            f"({error})"
        ) from None
    if isinstance(knob, Choices):
        if len(knob.choices) < 2 or len({repr(one) for one in knob.choices}) < len(knob.choices):
            raise UserError(f"choices must be two or more that differ, not {knob.choices}")
    elif not knob.low < knob.high:
        raise UserError(f"low must be below high, not {knob.low} and {knob.high}")
    elif knob.log and knob.low <= 0:
        raise UserError(f"with log, low must be above 0, not {knob.low}")
    return knob
