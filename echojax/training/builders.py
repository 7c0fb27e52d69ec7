"""From a configuration to its data, its batches and its training step."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from echojax.config import Config, check
from echojax.data import (
    DATASETS,
    Batches,
    Columns,
    Dataset,
    ItemVectors,
    Preparation,
    Split,
    cold_items_split,
    global_time_split,
    leave_one_out,
    load_dataset,
    windows,
)
from echojax.data.gaps import with_gaps
from echojax.data.item_vectors import read_item_vectors, with_item_vectors
from echojax.errors import UserError, unknown_name
from echojax.losses import LOSSES, make_loss
from echojax.mesh import axes_of, local_rows, place, rows_of_a_device
from echojax.models import check_names, check_parts, check_sequence_shards, with_sizes
from echojax.models.heuristic import training_counts
from echojax.models.projection import as_params
from echojax.plugins import load_plugin
from echojax.training.run_folder import check_same_data, kept_dataset, kept_item_vectors
from echojax.training.step import make_train_step

log = logging.getLogger(__name__)

_SPLITS = {
    "leave-one-out": leave_one_out,
    "global-time": global_time_split,
    "cold-items": cold_items_split,
}
# How many positions an epoch must save to pay for compiling one more width: that takes 3 to 7
# seconds on a CPU, and a position some 5 to 40 microseconds.
WORTH_A_WIDTH = 2**15
# What a microbatch costs in addition to its positions, in positions. About 64 were measured with
# Mamba4Rec on amazon-beauty; most of it is adding up the gradient of the item table.
COST_OF_A_MICROBATCH = 64


def resolved(config: Config, *, in_memory: bool = False) -> Config:
    """Check a configuration, and fill in what depends on the data set's name.

    The name of a data set that is ``in_memory`` need not be known.
    """
    check(config)
    if config.plugin is not None:
        config = dataclasses.replace(config, plugin=load_plugin(config.plugin))
    check_names(config)
    Preparation.of(config)  # which checks its values
    if config.loss not in LOSSES:
        raise unknown_name("--loss", config.loss, list(LOSSES))
    # A resumed run may have been started on data in memory, which its folder keeps.
    known = in_memory or config.resume or config.dataset in DATASETS
    if config.data_path is None and not known:
        raise unknown_name("--dataset", config.dataset, list(DATASETS))
    named = DATASETS.get(config.dataset) if config.data_path is None else None
    config = with_sizes(config)
    if not config.resume:  # with it, a run folder that is new checks them
        check_parts(config)
    synthetic = config.dataset == "synthetic" and config.data_path is None
    rows = (256, 2048) if config.objective == "prefixes" else (32, 128)
    config = dataclasses.replace(
        config,
        max_len=config.max_len or (named.max_len if named else 50),
        batch_size=config.batch_size or rows[not synthetic],
        eval_batch_size=config.eval_batch_size or (64 if jax.default_backend() == "cpu" else 1024),
    )
    check_sequence_shards(config)
    return config


def read_data(
    config: Config,
    *,
    dataset: Dataset | None = None,
    item_vectors: ItemVectors | None = None,
    run_dir: Path | None = None,
) -> tuple[Dataset, Split]:
    """Read, prepare and split the data of a resolved configuration; only split a given data set.

    If there is a ``run_dir``, its copies are used: of the data set, if the run was started on one
    in memory, and of the items' vectors.
    """
    started = run_dir is not None and (run_dir / "config.json").exists()
    if dataset is None and run_dir is not None and started:
        dataset = kept_dataset(run_dir, config.dataset)
        if dataset is not None and config.data_path is not None:
            raise UserError(
                f"{run_dir} keeps the data that it was trained on, and no other are read; leave "
                f"--data-path {config.data_path} out"
            )
        if dataset is None and config.data_path is None and config.dataset not in DATASETS:
            raise UserError(
                f"{run_dir} has lost data.npz, the data that it was trained on; restore it from a "
                f"copy, or register the data set {config.dataset!r} first, if it is one of yours"
            )
    dataset = dataset or load_dataset(
        config.dataset,
        data_path=config.data_path,
        data_dir=config.data_dir,
        columns=Columns.of(config),
        # The folder of a run that has started has the titles.
        items_path=None if started else config.items_path,
        title_column=None if started else config.title_column,
        preparation=Preparation.of(config),
    )
    assert config.max_len is not None
    split = _SPLITS[config.split](dataset, config.max_len)
    if config.time_gaps:
        split = with_gaps(dataset, split)
    if config.item_vectors is None:
        return dataset, split
    kept = kept_item_vectors(run_dir) if run_dir is not None and started else None
    if kept and item_vectors and not kept.same_as(item_vectors):
        sizes = [one.vectors_NxF.shape[::-1] for one in (kept, item_vectors)]
        raise UserError(
            "item_vectors are not what {} was trained with ({} numbers each of {:,} items, now {} "
            "of {:,}); leave them out, or name another run_dir".format(
                run_dir, *sizes[0], *sizes[1]
            )
        )
    if kept and (new := np.setdiff1d(dataset.item_ids[1:], kept.ids_N)).size:
        raise UserError(
            f"{dataset.name} is not what {run_dir} was trained on ({new.size:,} items more, such "
            f"as {str(new[0])!r}); restore the data, or name another --run-dir"
        )
    given = kept or item_vectors
    given = given or read_item_vectors(config.item_vectors, item=config.item_column)
    counts_V = training_counts(split.train, dataset.num_items)
    name = f"--item-vectors {config.item_vectors}"
    return with_item_vectors(dataset, split, counts_V, given, name)


def read_run_data(
    run_dir: Path, config: Config, *, data_dir: str | None = None, data_path: str | None = None
) -> tuple[Dataset, Split]:
    """Return the data that the run in a folder was trained on; ``UserError`` if they have changed.

    ``data_dir`` and ``data_path`` are where they are now, if not where the run found them.
    """
    config = dataclasses.replace(
        config, data_dir=data_dir or config.data_dir, data_path=data_path or config.data_path
    )
    dataset, split = read_data(config, run_dir=run_dir)
    check_same_data(run_dir, dataset)
    return dataset, split


def training_batches(config: Config, split: Split, mesh: Mesh) -> Batches:
    """Return all batches of a resolved configuration, in the form that its objective takes.

    This process prepares those rows of each batch that its devices of ``mesh`` compute.
    """
    assert config.batch_size is not None
    shown = split.train if config.objective == "prefixes" else windows(split.train)
    pack = rows_of_a_device(config.batch_size, mesh) if config.pack else None
    rows = local_rows(config.batch_size, mesh)
    return Batches(shown, config.batch_size, config.seed, rows, pack)


def learned_vectors(dataset: Dataset, mesh: Mesh) -> nnx.State | None:
    """Return the vectors of the items in training, on the devices; ``None`` if there are none."""
    if dataset.item_vectors is None:
        return None
    vectors = as_params(dataset.item_vectors.vectors_VxF[: dataset.num_learned])
    return jax.tree.map(jnp.asarray, vectors) if mesh.size == 1 else place(vectors, mesh)


def target_counts(dataset: Dataset, split: Split) -> np.ndarray:
    """Return how often each item that has parameters is a training target, (V,)."""
    return np.bincount(split.train.items_T[split.train.target_M], minlength=dataset.num_learned)


def make_step(
    config: Config,
    counts_V: np.ndarray,
    lengths_M: np.ndarray,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rates: Sequence[nnx.State] = (),
) -> jax.stages.Wrapped:
    """Return the training step of a resolved configuration, to be mapped over ``mesh``.

    ``counts_V`` is how often each item is a training target, ``lengths_M`` the number of items in
    each example, ``rates`` as for ``make_train_step``. The configuration's label smoothing may be
    traced.
    """
    assert config.objective is not None
    assert config.max_len is not None
    assert config.batch_size is not None
    rows = rows_of_a_device(config.batch_size, mesh)
    if config.microbatch and rows % config.microbatch:
        raise UserError(
            f"--microbatch {config.microbatch} does not divide the {rows} rows of a device; "
            "change it or --batch-size"
        )
    axes = axes_of(mesh)
    loss = make_loss(
        config.loss,
        counts_V=counts_V,
        negatives=config.negatives,
        negative_sampling=config.negative_sampling,
        gbce_t=config.gbce_t,
        label_smoothing=config.label_smoothing,
        axis=axes.items,
    )
    columns = [] if axes.time or config.pack else choose_columns(lengths_M, config.max_len)
    microbatch = config.microbatch
    if microbatch is None:
        microbatch = choose_microbatch(config, rows, counts_V.size, lengths_M, columns)
    return make_train_step(
        graphdef,
        optimizer,
        objective=config.objective,
        microbatch=microbatch,
        columns=columns,
        loss=loss,
        precision=config.precision,
        axes=axes,
        rates=rates,
    )


def choose_microbatch(
    config: Config, rows: int, num_items: int, lengths_M: np.ndarray, columns: Sequence[int]
) -> int | None:
    """Return how many of ``rows`` examples a microbatch has; ``None``, all, on an accelerator.

    On a CPU, at most about 4096 positions keep a step's activations in the last-level cache, which
    is twice as fast as the whole batch from memory. They are more if adding up the item table's
    gradient would take long. Fewer rows are better if more of the windows can then be cut to
    ``columns``. With packing it is a quarter of the rows that hold something, because microbatches
    of empty rows are skipped.
    """
    assert config.max_len is not None
    assert config.d_model is not None
    on_cpu = jax.default_backend() == "cpu"
    if not on_cpu and not config.pack:
        return None
    positions = max(4096, num_items * config.d_model // 300)
    most = max(1, min(rows, positions // config.max_len)) if on_cpu else rows
    if config.pack:
        held = rows * float(lengths_M.mean()) / config.max_len
        most = max(1, min(most, round(held / 4)))
    sizes = [size for size in range(most, 0, -1) if rows % size == 0]
    if config.pack:
        return sizes[0]
    # The widths of the rows of a batch that is like all examples, sorted by length.
    shares_B = (np.arange(rows) + 0.5) / rows
    needed_B = np.quantile(lengths_M, shares_B, method="nearest") + 1
    widths = np.array([*columns, config.max_len])
    width_B = widths[np.searchsorted(widths, np.minimum(needed_B, config.max_len))]

    def cost(size: int) -> int:
        """Return the positions of a batch, and what its microbatches cost in addition to them."""
        return size * int(width_B[size - 1 :: size].sum()) + COST_OF_A_MICROBATCH * (rows // size)

    return min(sizes, key=cost)


def choose_columns(lengths_M: np.ndarray, max_len: int, worth: int = WORTH_A_WIDTH) -> list[int]:
    """Return the widths to which windows of short examples may be cut, besides ``max_len``.

    Each width takes several seconds of compilation, so one is added only if it saves a tenth of the
    positions that are still computed, and ``worth`` positions in an epoch.
    """
    # One column more than the items, as in ``summed_gradient``.
    fits_W = np.cumsum(np.bincount(np.minimum(lengths_M + 1, max_len), minlength=max_len + 1))
    candidates, chosen = np.arange(1, max_len + 1), np.array([0, max_len])
    while True:
        place = np.searchsorted(chosen, candidates)
        below, above = chosen[place - 1], chosen[place]
        spared = (fits_W[candidates] - fits_W[below]) * (above - candidates)
        left = np.sum(np.diff(fits_W[chosen]) * chosen[1:])
        if spared.max() < max(left / 10, worth):
            return chosen[1:-1].tolist()
        chosen = np.sort(np.append(chosen, candidates[spared.argmax()]))
