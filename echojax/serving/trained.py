"""What serving reads of a run folder: the trained model, and the data's titles and popularity."""

import dataclasses
import logging
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx

from echojax.config import Config
from echojax.data import item_titles
from echojax.data.titles import TITLED
from echojax.errors import UserError
from echojax.given import given_path
from echojax.interop.weights import weights
from echojax.models import HEURISTICS, SequenceModel
from echojax.training.checkpoints import load_checkpoint
from echojax.training.run_folder import read_config, read_gap_unit, read_items
from selective_scan import implementations

log = logging.getLogger(__name__)


class Trained(NamedTuple):
    """A run's model."""

    config: Config  # what it was trained with
    model: SequenceModel  # with the parameters of the step that is served
    step: int  # which one that is
    # The best step of validation, which is served where its checkpoint can be read; 0 where no
    # validation has named it yet.
    best_step: int
    item_ids: np.ndarray  # the data's own ids, str (V,); number 0 is padding
    titles: dict[str, str]  # by item id, as the run folder has them; maybe none
    # Of the times between events (``echojax.data.gaps``); ``None``: not read.
    gap_unit: float | None


def read_trained(folder: Path, *, scan: str | None = None) -> Trained:
    """Read a run's best checkpoint; no data set is needed.

    ``scan`` is the selective scan's implementation; ``None``: the run's where it runs here.
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
    model = nnx.merge(best.graphdef, best.params)
    for name, array in weights(model).items():
        if not np.isfinite(array).all():
            raise UserError(
                f"the checkpoint of step {best.step} in {folder} has NaN or infinite numbers in "
                f"{name}; train again with a smaller --learning-rate"
            )
    unit = read_gap_unit(folder, config)
    return Trained(config, model, best.step, best.best_step, item_ids, titles, unit)


def check_places(data_dir: str | None, data_path: str | None) -> None:
    """Raise ``UserError`` where data is said to lie that does not."""
    if data_dir is not None and not given_path("--data-dir", data_dir).is_dir():
        raise UserError(f"--data-dir {data_dir} is no folder; check the path")
    if data_path is None:
        return
    path = given_path("--data-path", data_path)
    if not (path.exists() or has_magic(str(path))):
        raise UserError(f"--data-path {data_path} is no file; check the path")


def run_titles(
    kept: dict[str, str],
    config: Config,
    *,
    data_dir: str | None = None,
    data_path: str | None = None,
) -> dict[str, str]:
    """Return titles by item id; empty where there are none.

    Those ``kept`` in the run folder come first; runs of earlier versions kept none.
    """
    if kept:
        return kept
    path = data_path or config.data_path
    titles = item_titles(config.dataset, data_path=path, data_dir=data_dir or config.data_dir)
    if not titles and path is None and config.dataset in TITLED:
        log.info(
            f"titles not found; name the folder that holds {config.dataset} with --data-dir or "
            "$ECHOJAX_DATA"
        )
    return titles
