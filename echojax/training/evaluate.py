"""Evaluation on a part of the data, during training and of a finished run's best checkpoint."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from echojax.config import Config
from echojax.data import Dataset, Examples, ItemVectors, Split
from echojax.errors import UserError
from echojax.evaluation.baselines import fit_heuristic, rank_by
from echojax.evaluation.metrics import (
    CUTOFFS,
    check_cutoffs,
    lists_wanted,
    measure,
    named_metrics,
    summarise,
)
from echojax.evaluation.prequential import rank_prequentially
from echojax.evaluation.ranking import TOP, Ranked, Ranker, make_ranker, rank_examples
from echojax.mesh import axes_of, one_device, place
from echojax.models import HEURISTICS
from echojax.models.base import CausalModel, with_axes, with_precision
from echojax.models.heuristic import training_counts
from echojax.models.projection import complete
from echojax.training.builders import read_run_data
from echojax.training.checkpoints import LoadedCheckpoint, load_checkpoint
from echojax.training.run_folder import read_own_config

log = logging.getLogger(__name__)

_NOT_CAUSAL = (
    "--evaluate prequential is for causal models, and --model {} with this run's flags is none; "
    "leave it out: the same events are then scored one by one"
)


@dataclass(frozen=True)
class Evaluator:
    """Evaluates parameters on the parts of a split."""

    config: Config  # batch size and ``exclude_seen``
    split: Split
    ranker: Ranker
    mesh: Mesh  # the devices that users are spread over
    item_vectors: ItemVectors | None = None  # if the trained parameters have a projection of them

    def placed(self, trained: nnx.State) -> nnx.State:
        """Return the parameters for ``rank``, on the devices, from whole ones of training."""
        return place(complete(trained, self.item_vectors), self.mesh)

    def rank(self, params: nnx.State, part: str) -> Ranked:
        """Return the rank of each target of ``part``, "valid" or "test"."""
        examples = getattr(self.split, part)
        return rank_examples(
            self.ranker,
            params,
            examples,
            batch_size=min(self.config.eval_batch_size or 1024, len(examples)),
            exclude_seen=self.config.exclude_seen,
            mesh=self.mesh,
        )


def encoder_and_items(
    config: Config, graphdef: nnx.GraphDef, mesh: Mesh, *, method: str = "encode"
) -> tuple[Callable[..., jax.Array], Callable[[nnx.State], jax.Array]]:
    """Return two functions of models with this structure: the encoder and the items' vectors.

    ``encode(params, item_ids_BxL, lengths_B)``, with time gaps also ``gaps_BxL``, returns what the
    ``method`` of the model does, in the precision of ``config``, and ``items(params)`` returns
    item_VxD.
    """

    def encode(
        params: nnx.State,
        item_ids_BxL: jax.Array,
        lengths_B: jax.Array,
        gaps_BxL: jax.Array | None = None,
    ) -> jax.Array:
        model = with_precision(nnx.merge(graphdef, params), config.precision)
        encoder = getattr(with_axes(model, axes_of(mesh)), method)
        return encoder(item_ids_BxL, lengths_B, gaps_BxL=gaps_BxL)

    def items(params: nnx.State) -> jax.Array:
        return nnx.merge(graphdef, params).output_embeddings()

    return encode, items


def _rank_prequentially(
    config: Config, num_items: int, best: LoadedCheckpoint, examples: Examples, top: int
) -> Ranked:
    """Rank a part in few passes (``echojax.evaluation.prequential``), by a causal model only."""
    model = nnx.merge(best.graphdef, best.params)
    if not isinstance(model, CausalModel) or model.not_causal is not None:
        raise UserError(_NOT_CAUSAL.format(config.model))
    encoder = encoder_and_items(config, best.graphdef, one_device(), method="encode_all")
    return rank_prequentially(
        *encoder,
        best.params,
        examples,
        num_items=num_items,
        batch_size=config.eval_batch_size or 1024,
        exclude_seen=config.exclude_seen,
        top=top,
    )


def make_evaluator(
    config: Config,
    dataset: Dataset,
    split: Split,
    graphdef: nnx.GraphDef,
    mesh: Mesh,
    *,
    top: int = TOP,
) -> Evaluator:
    """Return the evaluator of models with this structure, with users spread over ``mesh``.

    ``top`` is how many of an example's best items are kept.
    """
    encode, items = encoder_and_items(config, graphdef, mesh)
    ranker = make_ranker(encode, items, num_items=dataset.num_items, top=top, mesh=mesh)
    return Evaluator(config, split, ranker, mesh, dataset.item_vectors)


class RankedRun(NamedTuple):
    """A part of a finished run's data, ranked by its model."""

    step: int  # of the checkpoint; 0 for a heuristic model
    ranked: Ranked
    examples: Examples
    popularity_V: np.ndarray  # training interactions of each item


def evaluate_run(
    folder: Path,
    part: str,
    *,
    metrics: Sequence[str] | None = None,
    cutoffs: Sequence[int] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return the results of one part, "valid" or "test", and the "step" of the checkpoint.

    ``metrics`` and ``cutoffs`` are those of ``named_metrics``; if both are ``None``, the results
    are those of ``summarise``, otherwise of ``measure``. The options are those of ``rank_run``.
    """
    if metrics is None and cutoffs is None:
        run = rank_run(folder, part, **options)
        return {"step": run.step, **summarise(run.ranked, run.examples, run.popularity_V)}
    read_own_config(folder)  # which loads the plug-in that may register some of the metrics
    names = named_metrics(metrics, CUTOFFS if cutoffs is None else cutoffs)
    run = rank_run(folder, part, names=names, **options)
    values = measure(run.ranked, run.examples, run.popularity_V, names)
    return {"step": run.step, **values}


def rank_run(
    folder: Path,
    part: str,
    *,
    exclude_seen: bool | None = None,
    prequential: bool = False,
    data_dir: str | None = None,
    data_path: str | None = None,
    names: Sequence[str] = (),
) -> RankedRun:
    """Rank a part, "valid" or "test", of a run's data by its best checkpoint.

    ``exclude_seen`` overrides the run's; ``data_dir`` and ``data_path`` are where the data are now;
    ``names`` are the full names of the wanted metrics, by whose cutoffs enough items are kept.
    """
    own = config = read_own_config(folder)
    if exclude_seen is not None:
        config = dataclasses.replace(config, exclude_seen=exclude_seen)
    if prequential and config.split != "global-time":
        raise UserError(
            "--evaluate prequential is for runs with --split global-time, where what is scored "
            f"comes after all that was learned; this one has --split {config.split}"
        )
    if prequential and config.model in HEURISTICS:
        raise UserError(_NOT_CAUSAL.format(config.model))
    dataset, split = read_run_data(folder, config, data_dir=data_dir, data_path=data_path)
    check_cutoffs(names, dataset.num_items - 1)
    top = lists_wanted(names) or TOP
    examples, counts_V = getattr(split, part), training_counts(split.train, dataset.num_items)
    if config.model in HEURISTICS:
        score = fit_heuristic(own, split, dataset.num_items)
        ranked = rank_by(
            score, examples, dataset.num_items, exclude_seen=config.exclude_seen, top=top
        )
        return RankedRun(0, ranked, examples, counts_V)
    best = load_checkpoint(folder, config, dataset.num_items)
    log.info(f"step {best.step} of {folder}")
    if prequential:
        ranked = _rank_prequentially(config, dataset.num_items, best, examples, top)
        return RankedRun(best.step, ranked, examples, counts_V)
    evaluate = make_evaluator(config, dataset, split, best.graphdef, one_device(), top=top)
    return RankedRun(best.step, evaluate.rank(best.params, part), examples, counts_V)
