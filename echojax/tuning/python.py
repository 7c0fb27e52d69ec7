"""Searching from Python: ``tune``, as ``echojax tune`` does."""

import os
from collections.abc import Mapping
from typing import Any

from echojax.api import as_found
from echojax.config import search_config
from echojax.flags import SearchFlags
from echojax.given import given_path, given_switch
from echojax.options import Data, configuration
from echojax.training.builders import resolved
from echojax.tuning.page import Search
from echojax.tuning.search import default_folder, search
from echojax.tuning.space import check_space, find_space


def tune(
    data: Data | None = None,
    *,
    model: str | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    trials: int = SearchFlags.trials,
    space: "Mapping[str, Mapping[str, Any]] | str | os.PathLike[str] | None" = None,
    out: "str | os.PathLike[str] | None" = None,
    generation: int = SearchFlags.generation,
    recipe: "str | os.PathLike[str] | None" = None,
    quiet: bool = False,
    **options: Any,
) -> Search:
    """Search flags of a model by the validation NDCG@10; a search in the folder is continued.

    Args:
        data: as for ``train``.
        model: its name.
        user: name of the user column.
        item: name of the item column.
        time: name of the time column.
        trials: how many settings are tried, those of earlier calls among them.
        space: what is searched, as ``{"dropout": {"low": 0.0, "high": 0.5}}``, or a file.
        out: the folder of the study; ``None``: as the command without the flag.
        generation: how many are proposed and trained together.
        recipe: a file, or "best", with values for flags that are not given.
        quiet: show nothing.
        options: any flag of training, with underscores; a flag that is given is not searched.

    Returns:
        what was found: ``trials``, the ``best`` of them with its ``values`` and ``score``,
        ``recipe``, a file that ``train`` takes, and ``page``, the page of all trials.

    Raises:
        UserError: something the user can fix.
    """
    quiet = given_switch("quiet", quiet)
    if model is not None:
        options["model"] = model
    with as_found(quiet) as console:
        recipe = None if recipe is None else str(given_path("--recipe", recipe))
        config, dataset = configuration(data, options, (user, item, time), recipe, search_config)
        whole = resolved(config, in_memory=dataset is not None)
        if isinstance(space, Mapping):
            found = check_space(space, whole, "the space", options)
        else:
            file = None if space is None else str(given_path("the space", space))
            found = find_space(whole, file=file, recipe=recipe, fixed=options)
        folder = default_folder(config) if out is None else given_path("--out", out)
        # The page and the recipe are read later, maybe from another working folder.
        folder = folder.absolute()
        return search(
            config, found, folder, console, trials=trials, generation=generation, dataset=dataset
        )
