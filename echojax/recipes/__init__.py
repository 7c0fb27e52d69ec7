"""Recipes: the flags that a model is trained with on a data set, one TOML file a data set.

Keys at the top of a file are flags for all models, a table has those of the model it is named
after; ``[MODEL-VARIANT]`` has those of a variant in its place. The files beside this one are what
the results tables were made with; the suites read them.

A table may list under ``tried`` what was tried before its flags were chosen: of each trial, the
flags that were tried, and the ``score``, its validation NDCG@10, where it is known. ``[space]`` has
what ``echojax tune`` searches for all models, ``[MODEL.space]`` what differs for one.
"""

import tomllib
from pathlib import Path
from typing import Any

from echojax.config import KINDS, NOT_IN_SUITES, emptiness, misfit
from echojax.errors import UserError, unknown_name
from echojax.models import HEURISTICS, MODELS
from echojax.models.echomamba4rec import VARIANT_OF_NAME

Flags = dict[str, Any]  # of train.py, with _ for -
SPACE, TRIED = "space", "tried"

_FOLDER = Path(__file__).parent
_DATA = [name for name in KINDS if name.startswith("data")]


def read_recipe(recipe: str, model: str, dataset: str | None, variant: str | None = None) -> Flags:
    """Return the flags of a recipe: "best", the one that comes along for the data set, or a file.

    They are those for a model, of a ``variant`` if it is not the default one. Data of the user's
    own, ``None``, have no recipe that comes along.
    """
    common, tables = _read(_file_of(recipe, dataset), "--recipe")
    return _flags(common | _of_model(recipe, model, tables, variant))


def read_tried(
    recipe: str, model: str, dataset: str | None, variant: str | None = None
) -> list[Flags] | None:
    """Return what was tried for a recipe; ``None`` where it does not say.

    Arguments and errors are those of ``read_recipe``. What was tried for a model was not tried for
    a ``variant`` without a table of its own.
    """
    _, tables = _read(_file_of(recipe, dataset), "--recipe")
    table = _of_model(recipe, model, tables, variant)
    return table.get(TRIED) if variant is None or f"{model}-{variant}" in tables else None


def read_space(path: Path, model: str, name: str, variant: str | None = None) -> dict[str, Any]:
    """Return what a file says of the space to search for a model, by flag; it is not checked.

    The file, of recipes or of a space alone, was named by the flag ``name``. What the table of the
    model, or of its variant, has changes what the file has for all.
    """
    common, tables = _read(path, name)
    own = tables.get(f"{model}-{variant}", tables.get(model, {}))
    return common.get(SPACE, {}) | own.get(SPACE, {})


def included_recipes(dataset: str | None) -> Path | None:
    """Return the file that comes along for a named data set, ``None`` where there is none."""
    return next((path for path in _FOLDER.glob("*.toml") if path.stem == dataset), None)


def _file_of(recipe: str, dataset: str | None) -> Path:
    path = included_recipes(dataset) if recipe == "best" else Path(recipe)
    if path is None:
        data = f"--dataset {dataset}" if dataset else "a file of your own"
        names = ", ".join(sorted(one.stem for one in _FOLDER.glob("*.toml")))
        raise UserError(
            f"--recipe best: there is none for {data}, only for {names}; leave it out, or name a "
            "recipe's file"
        )
    return path


def _read(path: Path, name: str) -> tuple[Flags, dict[str, Flags]]:
    """Return what a file has for all models, and by model."""
    _, content = read_toml(path, name)
    tables = {key: one for key, one in content.items() if isinstance(one, dict) and key != SPACE}
    common = {key: value for key, value in content.items() if key not in tables}
    for model, table in tables.items():
        if model not in (known := [*MODELS, *HEURISTICS, *VARIANT_OF_NAME]):
            raise UserError(f"{path}: {unknown_name('model', model, known)}")
        check_flags(_flags(table), f"{path}, [{model}]", "a recipe")
        check_tried(table.get(TRIED, []), f"{path}, [{model}]")
    check_flags({key: one for key, one in common.items() if key != SPACE}, str(path), "a recipe")
    for table in (common, *tables.values()):
        if not isinstance(table.get(SPACE, {}), dict):
            raise UserError(f"{path}: space must be a table, not {table[SPACE]!r:.80}")
    return common, tables


def _of_model(
    recipe: str, model: str, tables: dict[str, Flags], variant: str | None = None
) -> Flags:
    if (own := f"{model}-{variant}") in tables:
        return tables[own]
    if not tables:
        raise UserError(
            f"--recipe {recipe} has no recipe, as [{model}]; write one, or leave it out"
        )
    if model not in tables:
        raise UserError(
            f"--recipe {recipe} is for other models than {model} ({', '.join(tables)}); leave it "
            "out, or name one of these as --model"
        )
    return tables[model]


def _flags(table: Flags) -> Flags:
    """Return what a table has besides the space and what was tried."""
    return {name: value for name, value in table.items() if name not in (SPACE, TRIED)}


def read_toml(path: Path, name: str) -> tuple[str, dict[str, Any]]:
    """Return a file's text and what it holds; ``UserError`` names the flag that named it."""
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(f"{name} {path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}") from None


def check_tried(trials: object, where: str) -> None:
    """Raise ``UserError`` unless these are trials: flags, each with a score or without."""
    if not isinstance(trials, list) or not all(isinstance(trial, dict) for trial in trials):
        raise UserError(f"{where}: tried must list trials, as [{{ dropout = 0.2, score = 0.05 }}]")
    for trial in trials:
        flags = {name: value for name, value in trial.items() if name != "score"}
        check_flags(flags, f"{where}, tried", "a recipe")
        score = trial.get("score", 0)
        if type(score) not in (int, float) or not 0 <= score <= 1:
            raise UserError(f"{where}, tried: score must be an NDCG from 0 to 1, not {score!r}")


def check_flags(table: Flags, where: str, what: str = "a suite") -> None:
    """Raise ``UserError`` for a flag that is unknown, of another kind, or not for such a file."""
    elsewhere = NOT_IN_SUITES
    if what == "a recipe":
        elsewhere = dict.fromkeys([*NOT_IN_SUITES, *_DATA, "model"], "give it on the command line")
    for name, value in table.items():
        if name not in KINDS:
            raise UserError(f"{where}: {unknown_name('flag', name, list(KINDS))}")
        if name in elsewhere:
            raise UserError(f"{where}: {name} has no place in {what}; {elsewhere[name]}")
        if problem := misfit(KINDS[name], value) or emptiness(name, value):
            raise UserError(f"{where}: {name} {problem}")
