"""The compiled training step of a configuration."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from echojax.compilation import cache_hits
from echojax.config import Config
from echojax.data import Batches, Dataset, Split, batches, windows
from echojax.errors import UserError
from echojax.losses import make_loss
from echojax.mesh import axes_of, local_rows, padded_rows, row_groups
from echojax.training.step import make_train_step

# XLA's CPU compiler halves AVX-512 vectors unless told not to: 10 % of a step.
CPU_OPTIONS: dict[str, str | bool] = {"xla_cpu_prefer_vector_width": "512"}
# Positions an epoch that pay for a width's compilation, 3 to 7 seconds on a CPU: a position takes
# some 5 to 40 microseconds of it.
WORTH_A_WIDTH = 2**15


def training_batches(config: Config, split: Split, mesh: Mesh) -> Batches:
    """Return all batches of a resolved configuration's seed, as its objective shows them.

    Of each batch this process makes the rows that its devices of ``mesh`` compute.
    """
    assert config.batch_size is not None
    shown = split.train if config.objective == "prefixes" else windows(split.train)
    rows = local_rows(config.batch_size, mesh)
    return batches(shown, config.batch_size, config.seed, rows=rows)


def target_counts(dataset: Dataset, split: Split) -> np.ndarray:
    """Return how often each item is a training target, (V,)."""
    return np.bincount(split.train.items_T[split.train.target_M], minlength=dataset.num_items)


def make_step(
    config: Config,
    counts_V: np.ndarray,
    lengths_M: np.ndarray,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """Return the training step of a resolved configuration, to be mapped over ``mesh``.

    ``counts_V``: how often each item is a training target; ``lengths_M``: items of each example.
    """
    assert config.objective is not None
    assert config.max_len is not None
    assert config.batch_size is not None
    rows = padded_rows(config.batch_size, mesh) // row_groups(mesh)
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
    return make_train_step(
        graphdef,
        optimizer,
        objective=config.objective,
        microbatch=config.microbatch or choose_microbatch(config, rows, counts_V.size),
        columns=() if axes.time else choose_columns(lengths_M, config.max_len),
        loss=loss,
        precision=config.precision,
        axes=axes,
    )


def compile_step(
    step: jax.stages.Wrapped,
    *arguments: Any,
    say: Callable[[str], None],
    note: Callable[[jax.stages.Compiled, dict[str, Any]], None] | None = None,
) -> jax.stages.Compiled:
    """Compile a step for the shapes of its arguments, announced: it is the one long silence.

    ``note`` gets the program, the seconds of "trace", "lower" and "compile", and whether it came
    from the cache ("cached").
    """
    say("compiling the training step ...")
    times = [time.perf_counter()]
    traced = step.trace(*arguments) if hasattr(step, "trace") else None
    times.append(time.perf_counter())
    lowered = traced.lower() if traced else step.lower(*arguments)  # pmap traces while it lowers
    times.append(time.perf_counter())
    options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
    with cache_hits() as hits:
        compiled = lowered.compile(compiler_options=options)
    times.append(time.perf_counter())
    say(f"compiled in {times[-1] - times[0]:.1f} s")
    if note:
        seconds = dict(zip(("trace", "lower", "compile"), np.diff(times).tolist(), strict=True))
        note(compiled, {**seconds, "cached": bool(hits)})
    return compiled


def memory_of(step: Any) -> int | None:
    """Return the bytes that a compiled step holds at once; ``None`` where nobody knows."""
    stats = step.memory_analysis()
    if stats is None:
        return None
    used = stats.temp_size_in_bytes + stats.argument_size_in_bytes + stats.output_size_in_bytes
    return int(used - stats.alias_size_in_bytes)


def choose_microbatch(config: Config, rows: int, num_items: int) -> int | None:
    """Return how many of ``rows`` examples a CPU's caches hold at once; an accelerator takes all.

    About 4096 positions keep a step's activations in the last-level cache (twice as fast as the
    whole batch from memory), more where adding up the item table's gradient would show.
    """
    assert config.max_len is not None
    assert config.d_model is not None
    if jax.default_backend() != "cpu":
        return None
    positions = max(4096, num_items * config.d_model // 300)
    most = max(1, min(rows, positions // config.max_len))
    return next(n for n in range(most, 0, -1) if rows % n == 0)


def choose_columns(lengths_M: np.ndarray, max_len: int, worth: int = WORTH_A_WIDTH) -> list[int]:
    """Return how narrow the windows of short examples may be cut, beside ``max_len``.

    Each width is compiled for itself, several seconds, so it is chosen only where it spares a
    tenth of the positions that the others leave, and ``worth`` of them an epoch.
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
