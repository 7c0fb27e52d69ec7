"""What a configuration stands for: its data, its model, its ranker."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from echojax.config import Config, check
from echojax.data import (
    DATASETS,
    Columns,
    Dataset,
    Split,
    global_time_split,
    leave_one_out,
    load_dataset,
)
from echojax.errors import unknown_name
from echojax.evaluation.metrics import summarise
from echojax.evaluation.ranking import Ranked, Ranker, make_ranker, rank_examples
from echojax.mesh import axes_of
from echojax.models import check_names, check_sequence_shards, with_sizes
from echojax.models.axes import with_axes
from echojax.models.heuristic import training_counts
from echojax.models.precision import with_precision

_SPLITS = {"leave-one-out": leave_one_out, "global-time": global_time_split}


def resolved(config: Config) -> Config:
    """Check a configuration and fill in what depends on the data set's name.

    Raises:
        UserError: a value is impossible or a name unknown.
    """
    check(config)
    check_names(config)
    if config.data_path is None and config.dataset not in DATASETS:
        raise unknown_name("--dataset", config.dataset, list(DATASETS))
    named = DATASETS.get(config.dataset) if config.data_path is None else None
    config = with_sizes(config)
    rows = (256, 2048) if config.objective == "prefixes" else (32, 128)
    config = dataclasses.replace(
        config,
        max_len=config.max_len or (named.max_len if named else 50),
        batch_size=config.batch_size or rows[not _is_synthetic(config)],
        eval_batch_size=config.eval_batch_size or (64 if jax.default_backend() == "cpu" else 1024),
    )
    check_sequence_shards(config)
    return config


def read_data(config: Config, say: Callable[[str], None]) -> tuple[Dataset, Split]:
    """Read, prepare and split the data of a resolved configuration; ``say`` prints a line."""
    dataset = load_dataset(
        config.dataset,
        data_path=config.data_path,
        data_dir=config.data_dir,
        columns=Columns(
            config.user_column,
            config.item_column,
            config.time_column,
            config.columns,
            config.time_format,
            config.missing_ids,
            config.data_format,
        ),
        k_core=config.k_core,
        duplicates=config.duplicates,
    )
    assert config.max_len is not None
    return dataset, _SPLITS[config.split](dataset, config.max_len)


@dataclass(frozen=True)
class Evaluator:
    """Evaluates parameters on the parts of a split.

    Args:
        config: batch size and ``exclude_seen``.
        split: the examples.
        ranker: from ``ranker_of``.
        popularity_V: training interactions of each item.
        mesh: the devices that users are spread over.
    """

    config: Config
    split: Split
    ranker: Ranker
    popularity_V: Any
    mesh: Mesh

    def __call__(self, params: nnx.State, part: str) -> dict[str, Any]:
        """Return the results of ``part`` ("train", "valid" or "test") as ``summarise`` does."""
        return summarise(self.rank(params, part), getattr(self.split, part), self.popularity_V)

    def rank(self, params: nnx.State, part: str) -> Ranked:
        """Return the rank of each target of ``part``."""
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
    config: Config, graphdef: nnx.GraphDef, mesh: Mesh
) -> tuple[Callable[..., jax.Array], Callable[[nnx.State], jax.Array]]:
    """Return how models with this structure encode histories, and give their catalogue.

    ``encode(params, item_ids_BxL, lengths_B)`` is user_BxD, in the precision that ``config`` asks
    for, and ``items(params)`` item_VxD.
    """

    def encode(params: nnx.State, item_ids_BxL: jax.Array, lengths_B: jax.Array) -> jax.Array:
        model = with_precision(nnx.merge(graphdef, params), config.precision)
        return with_axes(model, axes_of(mesh)).encode(item_ids_BxL, lengths_B)

    def items(params: nnx.State) -> jax.Array:
        return nnx.merge(graphdef, params).catalogue()

    return encode, items


def make_evaluator(
    config: Config, dataset: Dataset, split: Split, graphdef: nnx.GraphDef, mesh: Mesh
) -> Evaluator:
    """Return the evaluator of models with this structure, users spread over ``mesh``."""
    encode, items = encoder_and_items(config, graphdef, mesh)
    ranker = make_ranker(encode, items, num_items=dataset.num_items, mesh=mesh)
    counts_V = training_counts(split.train, dataset.num_items)
    return Evaluator(config, split, ranker, counts_V, mesh)


def _is_synthetic(config: Config) -> bool:
    return config.dataset == "synthetic" and config.data_path is None
