"""The model that a run has trained, out of its run folder."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx

from echojax.config import Config
from echojax.errors import UserError
from echojax.models import HEURISTICS
from echojax.training.checkpoints import load_checkpoint
from echojax.training.run_folder import read_config, read_items
from selective_scan import implementations


class Trained(NamedTuple):
    """A run's best model.

    Attributes:
        config: what it was trained with.
        model: with the parameters of the best validation.
        step: after how many steps they were.
        item_ids: the data's own ids, str (V,); number 0 is padding.
        titles: by item id, as the run folder has them; maybe none.
    """

    config: Config
    model: nnx.Module
    step: int
    item_ids: np.ndarray
    titles: dict[str, str]


def read_trained(
    folder: Path, say: Callable[[str], None] = print, *, scan: str | None = None
) -> Trained:
    """Read a run's best checkpoint; no data set is needed.

    Args:
        folder: the run folder.
        say: prints one line.
        scan: the selective scan's implementation; ``None``: the run's where it runs here.

    Raises:
        UserError: no run, one of several seeds or of a heuristic model, or no whole checkpoint.
    """
    config = read_config(folder)
    if config.model in HEURISTICS:
        raise UserError(
            f"{folder} holds a {config.model} run, which counts and keeps no model; "
            "name the run of a trained one"
        )
    if config.seeds > 1:
        raise UserError(f"{folder} holds {config.seeds} seeds; name one: {folder}/seed-N")
    runs_here = implementations().get(config.scan) is None
    config = dataclasses.replace(config, scan=scan or (config.scan if runs_here else "auto"))
    item_ids, titles = read_items(folder)
    best = load_checkpoint(folder, config, len(item_ids))
    return Trained(config, nnx.merge(best.graphdef, best.params), best.step, item_ids, titles)
