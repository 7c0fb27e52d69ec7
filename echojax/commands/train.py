"""Train a sequential recommender."""

import dataclasses
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from echojax.command_line import flag_value, logged_terminal, parse
from echojax.config import (
    QUICKSTART,
    Config,
    default_config,
    flag,
    from_values,
    with_fields,
)
from echojax.errors import UserError
from echojax.flags import SECTIONS
from echojax.multihost.place import place_of
from echojax.multihost.together import Together
from echojax.signals import Interrupted


@dataclass(frozen=True)
class FileFlags:
    """Flags from a file; flags on the command line override them."""

    about: ClassVar[str | None] = Config.__doc__  # what the command does

    config: Path | None = None
    """A TOML or JSON file of flags, as a run's config.json is."""
    recipe: str | None = None
    """Flags for the model on the data set: best, those of the results tables, or a file of such
    recipes."""


def flags_type(
    default: Config,
    own: Mapping[str, tuple[Any, Any]] | None = None,
    first: FileFlags | None = None,
) -> type:
    """Return the dataclass of the command's flags, in which each section of ``Config`` is a field.

    ``default`` has the values of flags that are not given, ``own`` the type and the default of each
    of the model's own options. ``first`` is the section before them, with the command's own flags.
    """
    first = first or FileFlags()
    name = type(first).__name__.removesuffix("Flags").lower()
    fields: list[tuple[str, type, Any]] = [(name, type(first), first)]
    for section in SECTIONS:
        names = [field.name for field in dataclasses.fields(section)]
        values = section(**{name: getattr(default, name) for name in names})
        fields.append((section.__name__.removesuffix("Flags").lower(), section, values))
        if own and "model" in names:
            kind = _own_type(default, own)
            fields.append((kind.__name__, kind, dataclasses.MISSING))
    return dataclasses.make_dataclass(
        "Flags",
        [(name, kind, dataclasses.field(default=value)) for name, kind, value in fields],
        namespace={"__doc__": first.about},
        kw_only=True,
    )


def _own_type(default: Config, own: Mapping[str, tuple[Any, Any]]) -> type:
    """Return the dataclass of a model's own options; its docstring describes them."""
    from echojax.models import MODELS

    fields = []
    for name, (kind, value) in own.items():
        value = default.model_options.get(name, value)
        missing = value is inspect.Parameter.empty
        value = dataclasses.MISSING if missing else value
        fields.append((name, kind, dataclasses.field(default=value)))
    return dataclasses.make_dataclass(
        re.sub(r"\W", "_", f"model_{default.model}"),
        fields,
        namespace={"__doc__": inspect.getdoc(MODELS[default.model]) or default.model},
        kw_only=True,
    )


Flags = flags_type(Config())


def read_command_line(words: list[str], *, stored: bool = True) -> Config:
    """Return the configuration of a command line.

    A flag that is not given has its value from --config, else from --recipe, else from the run that
    is resumed, or from the quickstart. Only the first host of several has the run folder
    ``stored``, and reads it.
    """
    resume = stored and "--resume" in words
    return read_flags(words, None, lambda given: default_config(given | {"resume": resume}))[1]


def read_flags(
    words: list[str],
    first: FileFlags | None,
    default_of: Callable[[dict[str, Any]], Config],
) -> tuple[Any, Config]:
    """Return the first section of flags, and the configuration of all others.

    ``first`` is as for ``flags_type``. ``default_of`` returns the default configuration, given the
    flags that decide how the others are read.
    """
    file = flag_value("--config", words)
    values = _values_of(Path(file)) if file else {}
    early = {name: values[name] for name in _EARLY if isinstance(values.get(name), str)}
    early |= {name: value for name in _EARLY if (value := flag_value(flag(name), words))}
    default = default_of(early)
    if default is QUICKSTART and not {"-h", "--help"}.isdisjoint(words):
        default = default_of(early | {"dataset": default.dataset})
    model = early.get("model", default.model)
    own: dict[str, tuple[Any, Any]] = {}
    if plugin := early.get("plugin", default.plugin):
        from echojax.models import MODELS, own_options
        from echojax.plugins import load_plugin

        load_plugin(plugin)
        if model in MODELS:
            default = dataclasses.replace(default, model=model)
            own = own_options(MODELS[model])
    if recipe := flag_value("--recipe", words):
        from echojax.recipes import read_recipe

        dataset = None if "data_path" in early else early.get("dataset", default.dataset)
        variant = early.get("variant", default.variant)
        values = read_recipe(recipe, model, dataset, variant) | values
    default = with_fields(default, from_values(values, own, file))
    first, *sections = vars(parse(flags_type(default, own, first), args=words)).values()
    config = dataclasses.replace(default, model_options={} if own else default.model_options)
    for section in sections:
        if type(section) in SECTIONS:
            config = dataclasses.replace(config, **vars(section))
        else:
            config = dataclasses.replace(config, model_options=vars(section))
    return first, config


# Flags that decide how the others are read.
_EARLY = ("dataset", "data_path", "run_dir", "plugin", "model", "variant")


def _values_of(path: Path) -> dict[str, Any]:
    """Return the values of a file of flags, by name."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise UserError(f"--config {path} cannot be read as {kind}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"--config {path} holds no table of flags")
    return {name.replace("-", "_"): value for name, value in values.items()}


def main(words: list[str]) -> None:
    """Run the command."""
    code = 0
    with Together(place := place_of(words)) as together:
        config = read_command_line(words, stored=place is None)
        # These take seconds to import; help and mistakes are to be seen before.
        from echojax.compilation import use_compilation_cache
        from echojax.hosts import is_main_process
        from echojax.multihost.agreement import agreed_config
        from echojax.training.run import run

        use_compilation_cache()
        if place is not None:
            logged_terminal()
            together.join()
            config = agreed_config(config, read=lambda: read_command_line(words))
        console = logged_terminal(quiet=not is_main_process())
        if config == QUICKSTART:
            console.print("quickstart: generated data, learning rate 0.003, no dropout, 2 epochs")
        try:
            run(config, console)
        except Interrupted as stop:  # on all hosts, after the same step
            console.print(str(stop), highlight=False)
            code = stop.code
    if code:
        raise SystemExit(code)
