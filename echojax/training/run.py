"""One training run from configuration to report, in named stages."""

import shlex
import time
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from echojax.config import Config
from echojax.data import Batches, Dataset, Split, batches, windows
from echojax.losses import make_loss
from echojax.models import build_model
from echojax.training.checkpoints import Checkpoints
from echojax.training.interrupts import deferred_interrupts
from echojax.training.loop import Trainer
from echojax.training.metric_log import MetricLog, check_extras
from echojax.training.prepared import make_evaluator, read_data, resolved
from echojax.training.progress import Display, Standing
from echojax.training.results import finish, say_data
from echojax.training.run_folder import check_same_data, claim, write_start
from echojax.training.state import TrainState, create_state
from echojax.training.step import make_train_step

# XLA's CPU compiler halves AVX-512 vectors unless told not to: 10 % of a step.
CPU_OPTIONS: dict[str, str | bool] = {"xla_cpu_prefer_vector_width": "512"}


def run(config: Config, console: Console) -> Path:
    """Train, evaluate and report; return the run folder.

    Raises:
        UserError: something the user can mend.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    display = Display(console)

    # Configuration: impossible values and taken folders are refused before any work.
    config = resolved(config)
    check_extras(config)
    folder = claim(config)

    # Data: read, prepared, split; a resumed run must see what it was started on.
    dataset, split = read_data(config, display.say)
    say_data(display.say, dataset, split)
    if (folder / "config.json").exists():
        check_same_data(folder, dataset)
    else:
        write_start(folder, config, dataset)

    with deferred_interrupts() as interrupts:
        # Model: from the seed, or from the newest checkpoint.
        optimizer = optax.adam(config.learning_rate)
        graphdef, state = create_state(
            build_model(config, dataset.num_items), optimizer, config.seed
        )
        checkpoints = Checkpoints(folder / "checkpoints", display.say)
        standing = Standing()
        if config.resume and (found := checkpoints.restore(state)) is not None:
            state, standing = found[0], Standing(**found[1])
            checkpoints.drop_after(int(state.step))
            display.say(f"resumed from step {int(state.step)}")
        sizes = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        display.say(f"model: {config.model}, {sizes:,} parameters, on {jax.devices()[0]}")

        # Compile, and say so: it is the one long silence.
        assert config.batch_size is not None  # resolved
        shown = split.train if config.objective == "prefixes" else windows(split.train)
        feed = batches(shown, config.batch_size, config.seed)
        step = compile_step(
            config, target_counts(dataset, split), graphdef, optimizer, state, feed, display
        )
        evaluate = make_evaluator(config, dataset, split, graphdef)

        # Train.
        log = MetricLog(folder, int(state.step), config)
        trainer = Trainer(
            config=config,
            step=step,
            batches=feed,
            validate=lambda state: evaluate(state.params, "valid"),
            checkpoints=checkpoints,
            log=log,
            display=display,
            interrupts=interrupts,
            resume_line=shlex.join(
                ["python", "experiments/train.py", "--run-dir", str(folder), "--resume"]
            ),
        )
        state, reason = trainer.train(state, standing)
        log.close()
        display.say(f"training ended: {reason}")

    # The best parameters, judged; the report.
    best, _ = checkpoints.restore(state, first=standing.best_step) or (state, {})
    checkpoints.close()
    finish(folder, config, dataset, split, best.params, evaluate, asdict(standing), reason, console)
    return folder


def choose_microbatch(config: Config, num_items: int) -> int | None:
    """Return how many examples a CPU's caches hold at once; an accelerator takes all.

    About 4096 positions keep a step's activations in the last-level cache (twice as fast as the
    whole batch from memory), more where adding up the item table's gradient would show.
    """
    assert config.batch_size is not None
    assert config.max_len is not None
    if jax.default_backend() != "cpu":
        return None
    assert config.width is not None
    positions = max(4096, num_items * config.width // 300)
    most = max(1, min(config.batch_size, positions // config.max_len))
    return next(n for n in range(most, 0, -1) if config.batch_size % n == 0)


def target_counts(dataset: Dataset, split: Split) -> np.ndarray:
    """Return how often each item is a training target, (V,)."""
    return np.bincount(split.train.items_T[split.train.target_M], minlength=dataset.num_items)


def compile_step(
    config: Config,
    counts_V: np.ndarray,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    feed: Batches,
    display: Display,
) -> jax.stages.Compiled:
    """Compile the training step for the shapes of its batches, announced.

    ``counts_V``: how often each item is a training target.
    """
    assert config.objective is not None
    loss = make_loss(
        config.loss,
        counts_V=counts_V,
        negatives=config.negatives,
        negative_sampling=config.negative_sampling,
        gbce_t=config.gbce_t,
    )
    step = make_train_step(
        graphdef,
        optimizer,
        objective=config.objective,
        microbatch=config.microbatch or choose_microbatch(config, counts_V.size),
        loss=loss,
    )
    display.say("compiling the training step ...")
    began = time.perf_counter()
    options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
    compiled = step.lower(state, feed[0]).compile(compiler_options=options)
    display.say(f"compiled in {time.perf_counter() - began:.1f} s")
    return compiled
