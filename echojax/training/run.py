"""One training run, from configuration to report, to be read from top to bottom."""

import logging
import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
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
from echojax.data import Dataset, ItemVectors, Split, StackedBatches, iterate
from echojax.errors import UserError
from echojax.hosts import is_main_process, on_main_process
from echojax.machine import commit, device_name
from echojax.mesh import (
    axes_of,
    describe,
    gather,
    local_groups,
    make_mesh,
    place,
    spread,
    stack_shares,
)
from echojax.models import HEURISTICS, build_model
from echojax.models.projection import complete, projection_of, with_projection
from echojax.multihost.agreement import agree
from echojax.signals import Interrupted, deferred_interrupts
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
from echojax.training.optimizer import make_optimizer
from echojax.training.profile import Profile
from echojax.training.progress import Display, TrainingProgress, check_extras
from echojax.training.results import PARTS, finish, log_data, run_heuristic, summarise_seeds
from echojax.training.run_folder import (
    check_same_data,
    create_or_resume_run_dir,
    identity,
    seed_folders,
    write_start,
)
from echojax.training.seed_run import SeedRun, go_back_together
from echojax.training.step import (
    TrainState,
    compile_step,
    create_state,
    over_seeds,
    stack_states,
    unstack_states,
)
from echojax.training.warm_start import check_initial_weights, take_weights

log = logging.getLogger(__name__)


# Is told the metrics of a validation, and returns whether training is to stop.
Callback = Callable[[dict[str, Any]], object]


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

    Args:
        config: what to do; what is not given in it depends on data and model.
        console: where progress and results are shown.
        dataset: data from memory, in place of those that ``config`` names; the run folder keeps
            them.
        item_vectors: from memory, in place of those that ``config`` names.
        callbacks: called after each validation with its record of ``metrics.jsonl`` and the seed.
            Where one returns something true, training of this seed ends.

    Raises:
        UserError: something the user can fix.
        Interrupted: a signal to stop came; everything is saved.
    """
    # Impossible values and folders that are taken or read-only are refused before any work.
    config = resolved(config, in_memory=dataset is not None)
    check_extras(config)
    check_initial_weights(config)
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
        seeds = seed_folders(config, folder)

        # Data: read, prepared, split; a resumed run must see what it was started on.
        in_memory = dataset
        dataset, split = read_data(
            config, dataset=dataset, item_vectors=item_vectors, run_dir=folder
        )
        log_data(dataset, split)
        agree("data", {"sha256 of the data": dataset.fingerprint["sha256"][:12]})
        if (facts := dataset.fingerprint.get("item_vectors")) is not None:
            agree("item vectors", {"sha256 of the item vectors": facts["sha256"][:12]})
        folders = dict([(folder, config), *((f, c) for c, f in seeds)])
        on_main_process(_fill_folders, folders, dataset, in_memory)

        if config.model in HEURISTICS:
            if is_main_process():
                run_heuristic(folder, config, dataset, split, console)
        else:
            _train(config, folder, seeds, dataset, split, mesh, console, callbacks)
    return folder


def _train(
    config: Config,
    folder: Path,
    seeds: list[tuple[Config, Path]],
    dataset: Dataset,
    split: Split,
    mesh: Mesh,
    console: Console,
    callbacks: Sequence[Callback],
) -> None:
    """Train the seeds of a resolved configuration in their open folders; evaluate and report."""
    with deferred_interrupts() as interrupts:
        # Model: from each seed, or from its newest checkpoint.
        feed = training_batches(config, split, mesh)
        per_epoch = feed.per_epoch
        graphdef, runs = _open_runs(config, seeds, dataset, per_epoch)
        parameters = number_of(runs[0].state.params)
        log.info(f"model: {config.model}, {parameters:,} parameters, on {describe(mesh)}")

        # Step: forward, backward, update, for all seeds that stand at one step.
        optimizer = make_optimizer(config, axes_of(mesh).items, steps_per_epoch=per_epoch)
        counts_V, lengths_M = target_counts(dataset, split), feed.examples.lengths_M
        step = make_step(config, counts_V, lengths_M, graphdef, optimizer, mesh)
        steps = over_seeds(step, mesh, config.parallel)
        evaluate = make_evaluator(config, dataset, split, graphdef, mesh)
        vectors = learned_vectors(dataset, mesh)
        profile = Profile((config.profile or 0) * is_main_process(), folder)
        most_steps = min(config.epochs * per_epoch, config.max_steps or math.inf)
        display = Display(console, most_epochs=most_steps / per_epoch)
        resume = ["echojax", "train", "--run-dir", str(folder), "--resume"]
        stopped_line = f"stopped and saved; go on with: {shlex.join(resume)}"

        def on_devices(batch: Any, signum: int) -> tuple[Any, Any]:
            """Return a batch, and the signal that this host got, as the step takes them."""
            onto = stack_shares if config.parallel == "pmap" else spread
            signal_D = np.full(local_groups(mesh), signum, np.int32)
            return onto(batch, mesh, axis=1), onto(signal_D, mesh)

        def record_losses(outcome: list[jax.Array], step: int) -> int:
            """Take in what a step returned; return the signal that some host got, known to all."""
            losses, signum = outcome
            for run, loss in zip(group, np.asarray(losses).tolist(), strict=True):
                run.record_loss(loss, step)
            return int(signum)

        def record_speed(epoch: float, examples: int, seconds: float, waited: float) -> None:
            for run in group:
                run.progress.seconds += seconds
                run.progress.waited += waited
                run.progress.examples += examples
                run.write_metrics(
                    "train",
                    epoch,
                    loss=run.progress.mean_loss,
                    examples_per_second=examples / seconds,
                    seconds=seconds,
                )

        def train_epoch(states: TrainState, first: int, end: int) -> tuple[TrainState, int]:
            """Train from step ``first`` to ``end``, of one epoch; return the signal that came."""
            epoch, last, signum = first // per_epoch + 1, None, 0
            began, examples, waited = time.perf_counter(), 0, 0.0
            for number in range(first, end):
                began += profile.next_step(states)
                wanted = time.perf_counter()
                with profile.waiting():
                    batch = _next_batch(rows)
                waited += time.perf_counter() - wanted
                examples += batches.count(number)
                shown = on_devices(batch, interrupts.signum or 0)
                states, *outcome = program.run(states, *shown, vectors)
                if last is not None:  # read one step late: the device is never idle
                    signum = record_losses(last, number)
                last = outcome
                rate = examples / (time.perf_counter() - began) if number > first else math.nan
                loss = float(np.mean([run.progress.mean_loss for run in group]))
                display.step(epoch, number % per_epoch + 1, per_epoch, loss, rate * len(group))
                done = number + 1
                if done == end or signum or done % config.checkpoint_every == 0:
                    signum, last, now = record_losses(last, done), None, time.perf_counter()
                    record_speed(done / per_epoch, examples, now - began, waited)
                    began, examples, waited = now, 0, 0.0
                    if done < end:
                        for run, state in zip(group, unstack_states(states), strict=True):
                            run.save(run.finite(gather(state, run.state, mesh)))
                        if signum:
                            raise Interrupted(stopped_line, signum)
            profile.end_epoch(states)
            return states, signum

        def validate(run: SeedRun, params: nnx.State, epoch: int) -> None:
            began, progress = time.perf_counter(), run.progress
            if dataset.item_vectors is not None:
                whole = gather(params, run.state.params, mesh)
                params = place(complete(whole, dataset.item_vectors), mesh)
            metrics = evaluate.means(params, "valid")
            ndcg, loss = metrics["ndcg@10"], progress.mean_loss
            best = progress.add_validation(ndcg, progress.steps, epoch)
            seconds = time.perf_counter() - began
            record = run.write_metrics("valid", epoch, loss=loss, **metrics, seconds=seconds)
            seed = f"seed {run.config.seed}  " if config.seeds > 1 else ""
            log.info(
                f"{seed}epoch {epoch}  loss {loss:.4f}  valid HR@10 {metrics['hr@10']:.4f}  "
                f"NDCG@10 {ndcg:.4f}{'  best so far' if best else ''}"
            )
            told = {"seed": run.config.seed, **record}
            asked = [bool(callback(dict(told))) for callback in callbacks]
            run.called_off = on_main_process(any, asked)

        # Train: seeds at one step together, the earliest first, until one has a reason to stop.
        origin = device_name(), commit()
        while group := _earliest(runs):
            done = group[0].progress.steps
            batches = StackedBatches(
                tuple(training_batches(run.config, split, mesh) for run in group)
            )
            states = place(stack_states([run.state for run in group]), mesh, axis=1)
            program = compile_step(steps, states, *on_devices(batches[0], 0), vectors)
            profile.record_program(program)
            with ExitStack() as files:
                rows = files.enter_context(
                    closing(iterate(batches, done, workers=config.data_workers))
                )
                for run in group:
                    run.progress.record_origin(*origin)
                    run.progress.record_program(program.memory_bytes, len(group))
                    files.enter_context(run.open_metrics())
                while all(run.stop_reason() is None for run in group):
                    epoch = done // per_epoch + 1
                    end = min(epoch * per_epoch, config.max_steps or epoch * per_epoch)
                    with display.epoch(epoch, per_epoch, done % per_epoch):
                        states, signum = train_epoch(states, done, end)
                    whole_epoch, done = end == epoch * per_epoch, end
                    for run, state in zip(group, unstack_states(states), strict=True):
                        whole = run.finite(gather(state, run.state, mesh))
                        if (
                            not epoch % config.eval_every
                            or epoch == config.epochs
                            or not whole_epoch
                        ):
                            validate(run, state.params, epoch)
                        if whole_epoch:
                            run.progress.epoch_loss, run.progress.epoch_steps = 0.0, 0
                        run.save(whole)
                    if signum:
                        raise Interrupted(stopped_line, signum)
            for run, state in zip(group, unstack_states(states), strict=True):
                run.state = gather(state, run.state, mesh)
        for run in runs:
            run.stopped = run.stop_reason() or ""
            of = f" of seed {run.config.seed}" if len(runs) > 1 else ""
            log.info(f"training{of} ended: {run.stopped}")
        profile.end_run()
        if signum := _of_any_host(interrupts.signum or 0):  # it came after the last step
            raise Interrupted(stopped_line, signum)

    # The best parameters of each seed, evaluated; the report.
    results = [_finish(run, dataset, split, graphdef, evaluate, console) for run in runs]
    if len(runs) > 1 and is_main_process():
        summarise_seeds(folder, config, results, console)


def _next_batch(rows: Iterator[Any]) -> Any:
    """Return the next batch; ``UserError`` where a process that prepares them was killed."""
    try:
        return next(rows)
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        raise UserError(
            "a process of --data-workers was killed, maybe for lack of memory; go on with --resume "
            "and fewer --data-workers"
        ) from None


def _earliest(runs: list[SeedRun]) -> list[SeedRun]:
    """Return which of the runs that have no reason to stop have done the fewest steps."""
    active = [run for run in runs if run.stop_reason() is None]
    return [run for run in active if run.progress.steps == min(a.progress.steps for a in active)]


def _of_any_host(signum: int) -> int:
    """Return the signal that some host got, the same on all."""
    if jax.process_count() == 1:
        return signum
    return int(np.max(multihost_utils.process_allgather(np.int32(signum))))


def _fill_folders(folders: dict[Path, Config], dataset: Dataset, in_memory: Dataset | None) -> None:
    """Fill run folders that are new; check that the others were made on this data."""
    for folder, config in folders.items():
        if (folder / "config.json").exists():
            check_same_data(folder, dataset)
        else:
            write_start(folder, config, dataset, in_memory=in_memory)


def _open_runs(
    config: Config, seeds: list[tuple[Config, Path]], dataset: Dataset, per_epoch: int
) -> tuple[nnx.GraphDef, list[SeedRun]]:
    """Return the model's structure and each seed where it stands."""
    optimizer, projection = make_optimizer(config), projection_of(config, dataset.item_vectors)
    runs, starts = [], []
    for seed_config, folder in seeds:
        checkpoints = Checkpoints(folder / "checkpoints", on_main_process(identity, folder))
        model = build_model(seed_config, dataset.num_learned)
        graphdef, start = create_state(model, optimizer, seed_config.seed, projection)
        progress = TrainingProgress()
        runs.append(SeedRun(seed_config, folder, start, progress, checkpoints, per_epoch))
        starts.append(start)
    if config.init_from is not None and not all(run.checkpoints.steps() for run in runs):
        weights = take_weights(
            [start.params for start in starts], config, dataset.item_ids[: dataset.num_learned]
        )
        starts = [one._replace(params=w) for one, w in zip(starts, weights, strict=True)]
        for run, start in zip(runs, starts, strict=True):
            run.state = start
    if config.resume:
        go_back_together(runs, starts)
    for run in runs:
        run.checkpoints.drop_after(run.progress.steps)
        if config.resume and run.progress.steps:
            which = f"seed {run.config.seed} " if len(runs) > 1 else ""
            log.info(f"{which}resumed from step {run.progress.steps}")
    return graphdef, runs


def _finish(
    run: SeedRun,
    dataset: Dataset,
    split: Split,
    graphdef: nnx.GraphDef,
    evaluate: Evaluator,
    console: Console,
) -> dict[str, Any]:
    """Evaluate and report one seed by its best parameters, or the newest whole ones."""
    found = run.checkpoints.restore(run.state, first=run.progress.best_step or None)
    state, lost = (found.state, found.lost) if found else (run.state, "")
    params = jax.device_get(state.params)
    run.checkpoints.close()
    step, best = int(state.step), run.progress.best_step
    if lost:  # the results must not name another model than they are of
        why = f"the checkpoint of step {best}, the best, is {lost}: step {step} is evaluated"
        run.stopped += f"; {why}"
        run.progress.best_step, run.progress.best_epoch = step, step // run.per_epoch
        log.info(run.stopped)
    parameters, params = number_of(params), complete(params, dataset.item_vectors)
    placed = place(params, evaluate.mesh)
    ranked = {part: evaluate.rank(placed, part) for part in PARTS}
    if not is_main_process():
        return {}
    before = build_model(run.config, dataset.num_learned)
    if (projection := projection_of(run.config, dataset.item_vectors)) is not None:
        start = with_projection(nnx.state(before), projection, run.config.seed)
        before = nnx.merge(graphdef, complete(start, dataset.item_vectors))
    after = nnx.merge(graphdef, params)
    write_analysis(run.folder / "insight.npz", before, after, split.valid)
    return finish(
        run.folder,
        run.config,
        dataset,
        split,
        ranked,
        run.progress,
        run.stopped,
        console,
        steps_per_epoch=run.per_epoch,
        parameters=parameters,
    )


def number_of(params: nnx.State) -> int:
    """Return how many numbers the parameters are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
