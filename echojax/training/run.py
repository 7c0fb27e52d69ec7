"""One training run, from configuration to report, to be read from top to bottom."""

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from rich.console import Console

from echojax import keep_root_handlers
from echojax.analysis import write_analysis
from echojax.config import Config
from echojax.data import Dataset, ItemVectors, Split
from echojax.errors import UserError
from echojax.evaluation.baselines import evaluate_baselines
from echojax.hosts import is_main_process, on_main_process
from echojax.mesh import axes_of, make_mesh, mesh_words
from echojax.models import HEURISTICS, build_model
from echojax.models.projection import complete, projection_of, with_projection
from echojax.multihost.agreement import agree
from echojax.signals import deferred_interrupts
from echojax.training.builders import (
    learned_vectors,
    make_step,
    read_data,
    resolved,
    target_counts,
    training_batches,
)
from echojax.training.checkpoints import Checkpoints
from echojax.training.evaluate import Evaluator, make_evaluator
from echojax.training.loop import Callback, GroupStep, Loop
from echojax.training.optimizer import make_optimizer, most_steps
from echojax.training.profile import Profile
from echojax.training.progress import Display, TrainingProgress, check_extras
from echojax.training.results import (
    PARTS,
    Trained,
    finish,
    log_data,
    run_heuristic,
    summarise_seeds,
)
from echojax.training.run_folder import (
    check_resumed,
    create_or_resume_run_dir,
    fill_folders,
    identity,
    seed_folders,
)
from echojax.training.seed_run import SeedRun, earliest, go_back_together
from echojax.training.step import create_state, over_members
from echojax.training.warm_start import check_initial_weights, take_weights

log = logging.getLogger(__name__)


@keep_root_handlers()
def run(
    config: Config,
    console: Console,
    *,
    dataset: Dataset | None = None,
    item_vectors: ItemVectors | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train, evaluate and report; return the run folder.

    Fields of ``config`` that are ``None`` get defaults which depend on data and model. A data set
    and item vectors that are given from memory replace those that ``config`` names, and the run
    folder keeps them. Callbacks are called after each validation with its record of
    ``metrics.jsonl`` and the seed; if one returns something true, training of this seed ends. When
    a signal to stop comes, everything is saved and ``Interrupted`` is raised.
    """
    # Impossible values and folders that are taken or read-only are refused before any work.
    on_main_process(check_resumed, config)
    config = resolved(config, in_memory=dataset is not None)
    check_extras(config)
    check_initial_weights(config)
    if callbacks and config.model in HEURISTICS:
        raise UserError(
            f"callbacks are called after validations, of which --model {config.model} has none; "
            "leave them out"
        )
    mesh = make_mesh(item_shards=config.item_shards, sequence_shards=config.sequence_shards)
    if (hosts := jax.process_count()) > 1:
        if config.parallel == "pmap":
            raise UserError("--parallel pmap is for the devices of one host; leave it out")
        log.info(
            f"{hosts} hosts: when one is lost the others end within a minute; then start all again "
            "with --resume"
        )
    with ExitStack() as held:
        opened = create_or_resume_run_dir(config)
        folder = Path(on_main_process(lambda: str(held.enter_context(opened))))

        # Data: read, prepared, split; a resumed run must see what it was started on.
        in_memory = dataset
        dataset, split = read_data(
            config, dataset=dataset, item_vectors=item_vectors, run_dir=folder
        )
        log_data(dataset, split)
        agree("data", {"sha256 of the data": dataset.fingerprint["sha256"][:12]})
        if (facts := dataset.fingerprint.get("item_vectors")) is not None:
            agree("item vectors", {"sha256 of the item vectors": facts["sha256"][:12]})
        folders = {folder: config, **seed_folders(config, folder)}
        on_main_process(fill_folders, folders, dataset, in_memory, split.gap_unit)

        if config.model in HEURISTICS:
            if is_main_process():
                run_heuristic(folder, config, dataset, split, console)
        else:
            _train(config, folder, dataset, split, mesh, console, callbacks)
    return folder


def _train(
    config: Config,
    folder: Path,
    dataset: Dataset,
    split: Split,
    mesh: Mesh,
    console: Console,
    callbacks: Sequence[Callback],
) -> None:
    """Train the seeds of a resolved configuration in their locked folders; evaluate and report."""
    resume = ["echojax", "train", "--run-dir", str(folder), "--resume"]
    stopped = f"stopped and saved; go on with: {shlex.join(resume)}"
    with deferred_interrupts(stopped) as interrupts:
        # Model: from each seed, or from its newest checkpoint.
        feed = training_batches(config, split, mesh)
        graphdef, runs = open_runs(config, seed_folders(config, folder), dataset, feed.per_epoch)
        parameters = number_of(runs[0].state.params)
        log.info(f"model: {config.model}, {parameters:,} parameters, on {mesh_words(mesh)}")

        # Step: forward, backward, update, for all seeds that are at the same step.
        optimizer = make_optimizer(config, axes_of(mesh).items, steps_per_epoch=feed.per_epoch)
        counts_V, lengths_M = target_counts(dataset, split), feed.examples.lengths_M
        step = make_step(config, counts_V, lengths_M, graphdef, optimizer, mesh)
        steps = over_members(step, mesh, config.parallel)
        evaluate = make_evaluator(config, dataset, split, graphdef, mesh)
        vectors = learned_vectors(dataset, mesh)
        most_epochs = most_steps(config, feed.per_epoch) / feed.per_epoch
        profile = Profile((config.profile or 0) * is_main_process(), folder)
        loop = Loop(
            config,
            split,
            lambda group: GroupStep(steps, mesh, jax.tree.structure(group[0].state), [vectors]),
            evaluate,
            Display(console, most_epochs=most_epochs),
            interrupts,
            profile,
            callbacks,
        )

        # Train: the seeds with the fewest steps together, until one has a reason to stop.
        while group := earliest(runs):
            loop.train(group)
        for run in runs:
            log.info(f"training{run.name and f' of {run.name}'} ended: {run.stop_reason()}")
        profile.end_run()
        # One may have come after the last step.
        signum_H = multihost_utils.process_allgather(np.int32(interrupts.signum))
        interrupts.stop_for(int(np.max(signum_H)))

    # The best parameters of each seed, evaluated; the report.
    baselines = {}
    if is_main_process():
        baselines = evaluate_baselines(dataset, split, exclude_seen=config.exclude_seen)
    results = [_finish(run, dataset, split, graphdef, evaluate, baselines, console) for run in runs]
    if len(runs) > 1 and is_main_process():
        summarise_seeds(folder, config, results, console)


def open_runs(
    config: Config,
    seeds: Mapping[Path, Config],
    dataset: Dataset,
    per_epoch: int,
    go_back: Callable[[Sequence[SeedRun]], None] = go_back_together,
) -> tuple[nnx.GraphDef, list[SeedRun]]:
    """Return the model's structure, and each run in the state that it goes on from.

    ``seeds`` has the configuration of each run by its folder, ``config`` what they have in common.
    Where they are resumed, ``go_back`` takes their states and progress from their checkpoints; it
    is given the runs with their states before the first step.
    """
    projection, runs = projection_of(config, dataset.item_vectors), []
    for folder, seed_config in seeds.items():
        checkpoints = Checkpoints(folder / "checkpoints", on_main_process(identity, folder))
        model = build_model(seed_config, dataset.num_learned)
        optimizer, seed = make_optimizer(seed_config), seed_config.seed
        graphdef, start = create_state(model, optimizer, seed, projection)
        name = folder.name.replace("-", " ") if len(seeds) > 1 else ""
        progress = TrainingProgress()
        runs.append(SeedRun(seed_config, folder, start, progress, checkpoints, per_epoch, name))
    if config.init_from is not None and not all(run.checkpoints.steps() for run in runs):
        item_ids = dataset.item_ids[: dataset.num_learned]
        weights, said = take_weights([run.state.params for run in runs], config, item_ids)
        log.info(said)
        for run, params in zip(runs, weights, strict=True):
            run.state = run.state._replace(params=params)
    if config.resume:
        go_back(runs)
    for run in runs:
        run.checkpoints.drop_after(run.progress.steps)
        if config.resume and run.progress.steps:
            log.info(f"{run.name and run.name + ' '}resumed from step {run.progress.steps}")
    return graphdef, runs


def _finish(
    run: SeedRun,
    dataset: Dataset,
    split: Split,
    graphdef: nnx.GraphDef,
    evaluate: Evaluator,
    baselines: dict[str, dict[str, Any]],
    console: Console,
) -> dict[str, Any]:
    """Evaluate and report one seed by its best parameters, or by the newest undamaged ones."""
    found = run.checkpoints.restore(run.state, first=run.progress.best_step or None)
    state, lost = (found.state, found.lost) if found else (run.state, "")
    params = jax.device_get(state.params)
    run.checkpoints.close()
    stopped = run.stop_reason() or ""
    if lost:  # the results must name the step that they are of
        step, best = int(state.step), run.progress.best_step
        stopped += f"; the checkpoint of step {best}, the best, is {lost}: step {step} is evaluated"
        run.progress.best_step, run.progress.best_epoch = step, step // run.per_epoch
        log.info(stopped)
    placed = evaluate.placed(params)
    ranked = {part: evaluate.rank(placed, part) for part in PARTS}
    if not is_main_process():
        return {}
    try:
        start = _initial_parameters(run.config, dataset)
    except UserError as error:  # the run that --init-from names is gone
        log.info(f"without figures of what was learned: {error}")
    else:
        before, after = (
            nnx.merge(graphdef, complete(one, dataset.item_vectors)) for one in (start, params)
        )
        write_analysis(run.folder / "insight.npz", before, after, split.valid)
    trained = Trained(run.progress, stopped, run.per_epoch, number_of(params))
    return finish(run.folder, run.config, dataset, split, ranked, trained, baselines, console)


def _initial_parameters(config: Config, dataset: Dataset) -> nnx.State:
    """Return the parameters that the run of a seed began with."""
    start = nnx.state(build_model(config, dataset.num_learned))
    if (projection := projection_of(config, dataset.item_vectors)) is not None:
        start = with_projection(start, projection, config.seed)
    if config.init_from is not None:
        item_ids = dataset.item_ids[: dataset.num_learned]
        (start,), _ = take_weights([start], config, item_ids)
    return start


def number_of(params: nnx.State) -> int:
    """Return how many numbers the parameters are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
