"""Recipes: the flags that a model is trained with on a data set, one TOML file a data set.

Keys at the top of a file are flags for all models, a table has those of the model it is named
after. ``[space]`` has what ``echojax tune`` searches, ``[MODEL.space]`` what differs for a model.
The files beside this one are what the results tables were made with; the suites read them.
"""

import tomllib
import typing
from pathlib import Path
from typing import Any

from echojax.config import NOT_IN_SUITES, Config, misfit
from echojax.errors import UserError, unknown_name
from echojax.models import HEURISTICS, MODELS

Flags = dict[str, Any]  # of train.py, with _ for -

_FOLDER = Path(__file__).parent
_KINDS = typing.get_type_hints(Config)
_DATA = [name for name in _KINDS if name.startswith("data")]
_SPACE = "space"


def read_recipe(recipe: str, model: str, dataset: str | None) -> Flags:
    """Return the flags of a recipe.

    Args:
        recipe: "best", the one that comes along for this data set and model, or a file.
        model: whose flags.
        dataset: the named data set; ``None``: a file of the user's own, which needs a file here.

    Raises:
        UserError: in one line, there is no such recipe, it has none for this model, or what is
            wrong in it.
    """
    path = included_recipes(dataset) if recipe == "best" else Path(recipe)
    if path is None:
        data = f"--dataset {dataset}" if dataset else "a file of your own"
        names = ", ".join(sorted(one.stem for one in _FOLDER.glob("*.toml")))
        raise UserError(
            f"--recipe best: there is none for {data}, only for {names}; leave it out, or name a "
            "recipe's file"
        )
    common, tables = _read(path, "--recipe")
    common.pop(_SPACE, None)
    if model not in tables:
        raise UserError(
            f"--recipe {recipe} is for other models than {model} ({', '.join(tables)}); leave it "
            "out, or name one of these as --model"
        )
    return common | {name: value for name, value in tables[model].items() if name != _SPACE}


def included_recipes(dataset: str | None) -> Path | None:
    """Return the file that comes along for a named data set, ``None`` where there is none."""
    return next((path for path in _FOLDER.glob("*.toml") if path.stem == dataset), None)


def read_space(path: Path, model: str, name: str) -> dict[str, Any]:
    """Return what a file says of the space to search for a model, not checked, by knob.

    Args:
        path: of recipes, or of a space alone.
        model: whose space: the file's, with what the model's own table changes.
        name: the flag that named the file, for errors.
    """
    common, tables = _read(path, name)
    return common.get(_SPACE, {}) | tables.get(model, {}).get(_SPACE, {})


def _read(path: Path, name: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return what a file has for all models, and by model; spaces are not checked."""
    _, content = read_toml(path, name)
    tables = {key: table for key, table in content.items() if isinstance(table, dict)}
    tables.pop(_SPACE, None)
    common = {key: value for key, value in content.items() if key not in tables}
    for key, table in tables.items():
        if key not in (known := [*MODELS, *HEURISTICS]):
            raise UserError(f"{path}: {unknown_name('model', key, known)}")
        _check(table, f"{path}, [{key}]")
    _check(common, str(path))
    return common, tables


def _check(table: dict[str, Any], where: str) -> None:
    flags = {name: value for name, value in table.items() if name != _SPACE}
    check_flags(flags, where, "a recipe")
    if not isinstance(table.get(_SPACE, {}), dict):
        raise UserError(f"{where}: space must be a table of flags, not {table[_SPACE]!r:.80}")


def read_toml(path: Path, name: str) -> tuple[str, dict[str, Any]]:
    """Return a file's text and what it holds; ``UserError`` names the flag that named it."""
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(f"{name} {path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}") from None


def check_flags(table: Flags, where: str, what: str = "a suite") -> None:
    """Raise ``UserError`` for a flag that is unknown, of another kind, or not for such a file."""
    elsewhere = NOT_IN_SUITES
    if what == "a recipe":
        elsewhere = dict.fromkeys([*NOT_IN_SUITES, *_DATA, "model"], "give it on the command line")
    for name, value in table.items():
        if name not in _KINDS:
            raise UserError(f"{where}: {unknown_name('flag', name, list(_KINDS))}")
        if name in elsewhere:
            raise UserError(f"{where}: {name} has no place in {what}; {elsewhere[name]}")
        if problem := misfit(name, value):
            raise UserError(f"{where}: {name} {problem}")
