"""From data and options that are given in Python to a configuration, as from flags."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, Union

import numpy as np

from echojax.config import Config, default_config, flag, from_values, with_fields
from echojax.data import Dataset, is_name
from echojax.errors import UserError
from echojax.given import given_path
from echojax.models import MODELS, own_options
from echojax.plugins import load_plugin
from echojax.recipes import read_recipe

Data: TypeAlias = Union[str, "os.PathLike[str]", Dataset, Mapping[str, Any], Sequence[Any], Any]

# Options for reading events in memory, with their names as arguments of ``Dataset.from_frame``.
_HOW = {f"{role}_column": role for role in ("user", "item", "time")} | {
    name: name
    for name in ("k_core", "duplicates", "missing_ids", "time_format", "time_precision", "ties")
}
_OF_FILES = ("columns", "data_dir", "data_format", "items_path", "title_column")


def configuration(
    data: Data | None,
    options: Mapping[str, Any],
    columns: Iterable[str | None] = (None, None, None),
    recipe: "str | os.PathLike[str] | None" = None,
    default_of: Callable[[Mapping[str, Any]], Config] = default_config,
) -> tuple[Config, Dataset | None]:
    """Return the configuration, and the data set if it is in memory.

    ``data`` and ``recipe`` are as for ``echojax.train``, ``options`` are any flags, with
    underscores, ``columns`` the names of the user, item and time columns. ``default_of`` returns
    the values of options that are not given.
    """
    roles = zip(("user_column", "item_column", "time_column"), columns, strict=True)
    named = {name: str(column) for name, column in roles if column is not None}
    if twice := named.keys() & options.keys():
        name = min(twice)
        raise UserError(f"{name.removesuffix('_column')} and {name} are given; leave one out")
    given = _options({**options, **named})
    dataset, about = _dataset(data, given)
    given |= about
    default = default_of(given)
    if recipe is not None:
        named_data = None if "data_path" in given else given.get("dataset", default.dataset)
        model, variant = given.get("model", default.model), given.get("variant", default.variant)
        flags = read_recipe(str(given_path("--recipe", recipe)), model, named_data, variant)
        given = from_values(flags, {}) | given
    return with_fields(default, given), dataset


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options converted to arguments of ``Config``."""
    values = {}
    for name, value in options.items():
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        values[name] = value.item() if isinstance(value, np.generic) else value
    if isinstance(plugin := values.get("plugin"), str):
        load_plugin(plugin)
    model = values.get("model", Config().model)
    own = own_options(MODELS[model]) if isinstance(model, str) and model in MODELS else {}
    return from_values(values, own)


def _dataset(data: Data | None, given: Mapping[str, Any]) -> tuple[Dataset | None, dict[str, Any]]:
    """Return the data set, if it is in memory, and the options that say which data it is."""
    if data is None:
        return None, {}
    if taken := {"dataset", "data_path"} & given.keys():
        raise UserError(f"data and {flag(min(taken))} are given; leave one out")
    if isinstance(data, str | os.PathLike):
        name = os.fspath(data)
        return None, {"dataset" if is_name(name) else "data_path": name}
    what, how = "data in memory", {name: given[name] for name in _HOW if name in given}
    meaningless = {*_OF_FILES} & given.keys()
    if isinstance(data, Dataset):
        what, meaningless = "a Dataset", meaningless | how.keys()
    if meaningless:
        raise UserError(f"{flag(min(meaningless))} has no meaning for {what}; leave it out")
    if not isinstance(data, Dataset):
        data = Dataset.from_frame(data, **{_HOW[name]: value for name, value in how.items()})
    facts = data.fingerprint
    about = {"dataset": data.name, "k_core": facts["k_core"]}
    about["duplicates"] = facts["duplicates"]["handling"]
    for name in ("time_precision", "ties"):
        about[name] = facts["order"][name] if "order" in facts else getattr(Config, name)
    # The folder keeps the data as it was read.
    return data, about | dict.fromkeys(["user_column", "item_column", "time_column"])
