"""Reading a run folder for serving: the trained model, its item ids and titles."""

import dataclasses
import logging
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

import jax
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
from echojax.training.run_folder import read_config, read_gap_unit, read_items, several_seeds

log = logging.getLogger(__name__)


class Trained(NamedTuple):
    """The trained model of a run."""

    config: Config  # the configuration that it was trained with
    model: SequenceModel  # with the parameters of the step that is served
    step: int  # the step that is served
    # The step with the best validation, which is served if its checkpoint can be read; 0 if there
    # has been no validation.
    best_step: int
    item_ids: np.ndarray  # the data's ids, str (V,); number 0 is padding
    titles: dict[str, str]  # by item id, as stored in the run folder; possibly empty
    # The unit of times between events (``echojax.data.gaps``); ``None``: the model reads none.
    gap_unit: float | None


def read_trained(folder: Path, *, scan: str | None = None) -> Trained:
    """Read the best checkpoint of a run; the data set is not needed.

    ``scan`` is the implementation of the selective scan; ``None`` takes that of the run.

    Raises:
        UserError: The folder holds no run of one seed and a learned model, or no checkpoint that
            can be read, or the parameters are not finite.
    """
    config = read_config(folder)
    if config.model in HEURISTICS:
        raise UserError(
            f"{folder} holds a run of {config.model}, which counts and keeps no model; "
            "name the run of a trained one"
        )
    if config.seeds > 1:
        raise several_seeds(folder, config)
    config = dataclasses.replace(config, scan=scan or config.scan)
    item_ids, titles = read_items(folder)
    with jax.enable_x64(False):  # models are float32, whatever else the process computes
        best = load_checkpoint(folder, config, len(item_ids))
    model = nnx.merge(best.graphdef, jax.device_put(best.params))
    if (rows := len(model.item_embedding[...])) != len(item_ids):
        raise UserError(
            f"{folder / 'items.json'} has {len(item_ids):,} 'item_ids', and the model {rows:,}; "
            "restore it from a copy"
        )
    for name, array in weights(model).items():
        if not np.isfinite(array).all():
            raise UserError(
                f"the checkpoint of step {best.step} in {folder} has NaN or infinite numbers in "
                f"{name}; train again with a smaller --learning-rate"
            )
    unit = read_gap_unit(folder, config)
    return Trained(config, model, best.step, best.best_step, item_ids, titles, unit)


def check_places(data_dir: str | None, data_path: str | None) -> None:
    """Raise ``UserError`` if a folder or file of data does not exist."""
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
    """Return titles by item id; empty if there are none.

    These are the titles ``kept`` in the run folder, or, for runs of earlier versions, which kept
    none, those found with the data.
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
