"""One training run from configuration to report, in named stages."""

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from rich.console import Console

from echojax.analysis import write_analysis
from echojax.config import Config
from echojax.data import Dataset, Split, item_titles
from echojax.errors import UserError
from echojax.hosts import is_main_process, on_main_process
from echojax.mesh import axes_of, describe, make_mesh, place
from echojax.models import HEURISTICS, build_model
from echojax.multihost.agreement import agree
from echojax.training.checkpoints import Checkpoints
from echojax.training.heuristic import count
from echojax.training.interrupts import deferred_interrupts
from echojax.training.loop import Trainer
from echojax.training.metric_log import check_extras
from echojax.training.optimizer import make_optimizer
from echojax.training.prepared import Evaluator, make_evaluator, read_data, resolved
from echojax.training.profile import Profile
from echojax.training.program import compile_step, make_step, target_counts, training_batches
from echojax.training.progress import Display, Standing
from echojax.training.results import PARTS, finish, say_data
from echojax.training.run_folder import (
    alone_in,
    check_same_data,
    claim,
    identity,
    seed_folders,
    write_start,
)
from echojax.training.seed_run import SeedRun, go_back_together, side_by_side
from echojax.training.seed_summary import summarise_seeds
from echojax.training.state import create_state


def run(config: Config, console: Console) -> Path:
    """Train, evaluate and report; return the run folder.

    Raises:
        UserError: something the user can fix.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    display = Display(console)

    # Configuration: impossible values and taken folders are refused before any work.
    config = resolved(config)
    check_extras(config)
    folder = Path(on_main_process(lambda: str(claim(config))))
    seeds = seed_folders(config, folder)

    if (hosts := jax.process_count()) > 1:
        if config.parallel == "pmap":
            raise UserError("--parallel pmap is for the devices of one host; leave it out")
        display.say(
            f"{hosts} hosts: when one is lost the others end within a minute; then start all again "
            "with --resume"
        )

    # Data: read, prepared, split; a resumed run must see what it was started on.
    dataset, split = read_data(config, display.say)
    say_data(display.say, dataset, split)
    agree("data", {"sha256 of the data": dataset.fingerprint["sha256"][:12]})
    titles = cache(partial(_titles, config, display))  # read where a folder is made, and once
    for seed_config, seed_folder in [(config, folder), *seeds]:
        on_main_process(_open_folder, seed_folder, seed_config, dataset, titles)
    with ExitStack() as held:
        on_main_process(lambda: held.enter_context(alone_in(folder)))
        if config.model not in HEURISTICS:
            _train(config, folder, seeds, dataset, split, console)
        elif is_main_process():
            count(folder, config, dataset, split, console)
    return folder


def _train(
    config: Config, folder: Path, seeds: list[tuple[Config, Path]], dataset: Dataset, split: Split,
    console: Console,
) -> None:  # fmt: skip
    """Train the seeds of a resolved configuration in their open folders, judge and report them."""
    display = Display(console)
    with deferred_interrupts() as interrupts:
        # Model: from each seed, or from its newest checkpoint.
        mesh = make_mesh(item_shards=config.item_shards, sequence_shards=config.sequence_shards)
        feed = training_batches(config, split, mesh)
        graphdef, runs = _open_runs(config, seeds, dataset, feed.per_epoch, display)
        parameters = number_of(runs[0].state.params)
        display.say(f"model: {config.model}, {parameters:,} parameters, on {describe(mesh)}")
        counts_V, lengths_M = target_counts(dataset, split), feed.examples.lengths_M
        optimizer = make_optimizer(config, axes_of(mesh).items)
        step = make_step(config, counts_V, lengths_M, graphdef, optimizer, mesh)
        evaluate = make_evaluator(config, dataset, split, graphdef, mesh)

        # Train.
        mapped = side_by_side(step, mesh, config.parallel)
        traced = config.profile if is_main_process() else None
        profile = Profile(traced or 0, folder, display.say)
        trainer = Trainer(
            config=config,
            compile=partial(compile_step, mapped, say=display.say, note=profile.note_program),
            feed=partial(training_batches, split=split, mesh=mesh),
            mesh=mesh,
            validate=lambda state: evaluate(state.params, "valid"),
            display=display,
            interrupts=interrupts,
            resume_line=shlex.join(
                ["python", "experiments/train.py", "--run-dir", str(folder), "--resume"]
            ),
            profile=profile,
        )
        trainer.train(runs)

    # The best parameters of each seed, judged; the report.
    results = [
        _finish(one, dataset, split, graphdef, evaluate, feed.per_epoch, console) for one in runs
    ]
    if len(runs) > 1 and is_main_process():
        summarise_seeds(folder, config, results, console)


def _titles(config: Config, display: Display) -> dict[str, str]:
    """Return titles by item id; none where they are damaged, which stops no training."""
    try:
        return item_titles(config.dataset, data_path=config.data_path, data_dir=config.data_dir)
    except UserError as error:
        display.say(f"no titles: {error}")
        return {}


def _open_folder(
    folder: Path, config: Config, dataset: Dataset, titles: Callable[[], dict[str, str]]
) -> None:
    """Make a run folder, or check that the one there was made on this data."""
    if (folder / "config.json").exists():
        check_same_data(folder, dataset)
    else:
        write_start(folder, config, dataset, titles())


def _open_runs(
    config: Config, seeds: list[tuple[Config, Path]], dataset: Dataset, steps_per_epoch: int,
    display: Display,
) -> tuple[nnx.GraphDef, list[SeedRun]]:  # fmt: skip
    """Return the model's structure and each seed where it stands."""
    optimizer = make_optimizer(config)
    runs, starts = [], []
    for seed_config, folder in seeds:
        model = build_model(seed_config, dataset.num_items)
        graphdef, start = create_state(model, optimizer, seed_config.seed)
        run = on_main_process(identity, folder)
        checkpoints = Checkpoints(folder / "checkpoints", display.say, run)
        runs.append(SeedRun(seed_config, folder, start, Standing(), checkpoints))
        starts.append(start)
    if config.resume:
        go_back_together(runs, starts, steps_per_epoch)
    for one in runs:
        one.checkpoints.drop_after(one.standing.steps)
        if config.resume and one.standing.steps:
            which = f"seed {one.config.seed} " if len(runs) > 1 else ""
            display.say(f"{which}resumed from step {one.standing.steps}")
    return graphdef, runs


def _finish(
    one: SeedRun, dataset: Dataset, split: Split, graphdef: nnx.GraphDef, evaluate: Evaluator,
    steps_per_epoch: int, console: Console,
) -> dict[str, Any]:  # fmt: skip
    """Judge and report one seed by its best parameters, or the newest whole ones."""
    found = one.checkpoints.restore(one.state, first=one.standing.best_step or None)
    judged, lost = (found.state, found.lost) if found else (one.state, "")
    params = jax.device_get(judged.params)
    one.checkpoints.close()
    step, best = int(judged.step), one.standing.best_step
    if lost:  # the results must not name another model than they are of
        one.stopped += (
            f"; the checkpoint of step {best}, the best, is {lost}: step {step} is judged"
        )
        one.standing.best_step, one.standing.best_epoch = step, step // steps_per_epoch
        console.print(one.stopped, highlight=False, soft_wrap=True)
    placed = place(params, evaluate.mesh)
    ranked = {part: evaluate.rank(placed, part) for part in PARTS}
    if not is_main_process():
        return {}
    before = build_model(one.config, dataset.num_items)
    after = nnx.merge(graphdef, params)
    write_analysis(one.folder / "insight.npz", before, after, split.valid)
    return finish(
        one.folder, one.config, dataset, split, ranked, one.standing, one.stopped, console,
        steps_per_epoch=steps_per_epoch,
        parameters=number_of(params),
    )  # fmt: skip


def number_of(params: nnx.State) -> int:
    """Return how many numbers the parameters are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
