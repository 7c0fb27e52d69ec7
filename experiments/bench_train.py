"""Measure training, evaluation and start-up: python experiments/bench_train.py --output FILE.

Everything runs on the given number of CPU cores (or the accelerator), in one process a variant,
so that the figures of one file can be compared with each other.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from echojax.command_line import Terminal, log_to, parse
from echojax.errors import exit_on_user_error


@dataclass(frozen=True)
class Flags:
    """Time training steps, an evaluation and a second start; write JSON."""

    output: Path
    """Where the JSON goes."""
    dataset: str = "ml-100k"
    """Name of the data set."""
    data_dir: str | None = None
    """Folder that holds the data sets' files."""
    cores: int = 1
    """CPU cores to use."""
    steps: int = 12
    """Training steps to time, a model."""
    models: tuple[str, ...] = ("echomamba4rec", "echomamba4rec-official")
    """Models, and echomamba4rec-official."""
    objective: str | None = None
    """What a row predicts (None: each model's own)."""
    start: bool = False
    """Time the start of training too, with empty and with filled caches."""
    seeds: int | None = None
    """Time whole commands too: this many seeds at once, and one after the other."""
    epochs: int = 5
    """Epochs of these commands."""


def main() -> None:
    """Run the command."""
    with exit_on_user_error():
        flags = parse(Flags, args=sys.argv[1:])
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: flags.cores])
        # Imported behind the choice of cores: XLA counts them when it starts.
        from echojax.machine import describe

        results = {
            "command": command(flags),
            "date": date.today().isoformat(),
            "machine": describe([]),
            **{name: measure(flags, name) for name in flags.models},
            **({"start": measure_start(flags)} if flags.start else {}),
            **({"seeds": measure_seeds(flags, flags.seeds)} if flags.seeds else {}),
        }
        flags.output.write_text(json.dumps(results, indent=2) + "\n")
        print(json.dumps(results, indent=2))


def command(flags: Flags) -> str:
    """Return the command that these flags stand for, without machine paths."""
    given = f"--dataset {flags.dataset} --cores {flags.cores} --steps {flags.steps}"
    given += f" --models {' '.join(flags.models)}"
    given += f" --objective {flags.objective}" if flags.objective else ""
    given += " --start" if flags.start else ""
    given += f" --seeds {flags.seeds} --epochs {flags.epochs}" if flags.seeds else ""
    return f"python experiments/bench_train.py {given}"


def measure(flags: Flags, name: str) -> dict[str, Any]:
    """Return seconds an epoch and an evaluation of one model at its own sizes."""
    import jax
    import jax.numpy as jnp

    from echojax.config import Config
    from echojax.data import iterate
    from echojax.machine import device_name
    from echojax.mesh import one_device
    from echojax.models import build_model
    from echojax.training.builders import (
        make_step,
        read_data,
        resolved,
        target_counts,
        training_batches,
    )
    from echojax.training.evaluate import make_evaluator
    from echojax.training.optimizer import make_optimizer
    from echojax.training.results import package_versions
    from echojax.training.step import compile_step, create_state

    config = Config(dataset=flags.dataset, data_dir=flags.data_dir, objective=flags.objective)
    official = name.endswith("-official")
    config = resolved(
        dataclasses.replace(
            config,
            model=name.removesuffix("-official"),
            variant="official" if official else "echojax",
        )
    )
    log_to(Terminal(stderr=True))
    dataset, split = read_data(config)
    optimizer = make_optimizer(config)
    graphdef, state = create_state(build_model(config, dataset.num_items), optimizer, config.seed)
    mesh = one_device()
    feed = training_batches(config, split, mesh)
    counts_V, lengths_M = target_counts(dataset, split), feed.examples.lengths_M
    plain = make_step(config, counts_V, lengths_M, graphdef, optimizer, mesh)
    step = compile_step(plain, state, jax.tree.map(jnp.asarray, feed[0]))
    rows, seconds, waited = iterate(feed), [], 0.0
    state, loss = step.run(state, next(rows))
    jax.block_until_ready(loss)
    for _ in range(flags.steps):
        began = time.perf_counter()
        batch = next(rows)
        waited += time.perf_counter() - began
        state, loss = step.run(state, batch)
        jax.block_until_ready(loss)
        seconds.append(time.perf_counter() - began)
    rows.close()
    evaluate = make_evaluator(config, dataset, split, graphdef, mesh)
    evaluate(state.params, "valid")
    began = time.perf_counter()
    evaluate(state.params, "valid")
    full_batches = len(feed.examples) / feed.batch_size
    return {
        # The median step: a shared machine holds single steps up.
        "seconds_per_epoch": statistics.median(seconds) * full_batches,
        "seconds_per_epoch_fastest_step": min(seconds) * full_batches,
        "objective": config.objective,
        "rows": len(feed.examples),
        "targets": len(split.train),
        "batch_size": feed.batch_size,
        "max_len": config.max_len,
        "input_wait_share": waited / sum(seconds),
        "evaluation_seconds": time.perf_counter() - began,
        "evaluated_users": len(split.valid),
        "step_memory_bytes": step.memory_bytes,
        "device": device_name(),
        "versions": package_versions(),
    }


def measure_start(flags: Flags) -> dict[str, float]:
    """Return seconds from the command to a compiled first step, first and second start."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "second"):
            began = time.perf_counter()
            for line in train(flags, folder, name, "--max-steps", "1"):
                if line.startswith("compiled"):
                    seconds[name] = time.perf_counter() - began
    return seconds


def measure_seeds(flags: Flags, seeds: int) -> dict[str, Any]:
    """Return the seconds of whole commands by model: all seeds at once, and a command for each.

    Both begin without compiled programs; of several commands the later ones find those of the
    first.
    """
    return {name: _measure_seeds(flags, seeds, name) for name in flags.models}


def _measure_seeds(flags: Flags, seeds: int, model: str) -> dict[str, float]:
    seconds = {}
    own = ["--model", model.removesuffix("-official"), "--epochs", str(flags.epochs)]
    own += ["--variant", "official"] if model.endswith("-official") else []
    each = [("--seed", seed) for seed in range(seeds)]
    for name, numbers in (("at_once", [("--seeds", seeds)]), ("one_by_one", each)):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            for flag, number in numbers:
                for _ in train(flags, folder, f"{flag}-{number}", *own, flag, str(number)):
                    pass
            seconds[name] = time.perf_counter() - began
    return {**seconds, "speed_up": seconds["one_by_one"] / seconds["at_once"]}


def train(flags: Flags, folder: str, name: str, *own: str) -> Iterator[str]:
    """Run train.py in a folder that has its caches too; yield the lines that it prints.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, str(Path(__file__).parent / "train.py")]
    command += ["--dataset", flags.dataset, "--run-dir", str(Path(folder) / name), *own]
    command += ["--data-dir", flags.data_dir] if flags.data_dir else []
    command += ["--objective", flags.objective] if flags.objective else []
    environment = os.environ | {"XDG_CACHE_HOME": folder}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield from process.stdout
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)


if __name__ == "__main__":
    main()
