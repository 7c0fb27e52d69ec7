"""How long do training, evaluation and start-up take on real data? python benchmarks/training.py.

Everything runs on the given number of CPU cores (or the accelerator), so that the figures in one
file are comparable. Whole commands run in their own processes.
"""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from echojax.config import Config
from echojax.data import iterate
from echojax.errors import unknown_name
from echojax.evaluation.metrics import summarise
from echojax.flags import Positive
from echojax.machine import device_name
from echojax.mesh import one_device
from echojax.models import MODELS
from echojax.models.echomamba4rec import VARIANT_OF_NAME
from echojax.models.heuristic import training_counts
from echojax.training.builders import read_data, resolved
from echojax.training.evaluate import make_evaluator
from harness import Row, log
from step import DataStep

# Flags of ``train.py`` by the names in ``--models``: models, and variants of EchoMamba4Rec.
_MODEL_FLAGS: dict[str, dict[str, Any]] = {name: {"model": name} for name in MODELS} | {
    name: {"model": "echomamba4rec", "variant": variant}
    for name, variant in VARIANT_OF_NAME.items()
    if variant != Config.variant
}


@dataclass(frozen=True)
class Flags(harness.DataFlags):
    """Time training steps and an evaluation of each model and, on request, whole commands."""

    dataset: str = "ml-100k"
    """Name of the data set."""
    cores: int = 1
    """CPU cores to use."""
    steps: Positive = 12
    """Training steps to time for each model."""
    models: tuple[str, ...] = ("echomamba4rec", "echomamba4rec-official")
    """Names of models; a variant of EchoMamba4Rec has a name such as echomamba4rec-causal."""
    objective: str | None = None
    """Training objective (None: each model's own)."""
    start: bool = False
    """Also time the start of training, with empty and with filled caches."""
    seeds: Positive | None = None
    """Also time whole commands: this many seeds at once, and one after the other."""
    epochs: Positive = 5
    """Epochs of the whole commands."""


def main(flags: Flags) -> None:
    """Measure the cases that have no row yet, and write the file."""
    for name in flags.models:
        if name not in _MODEL_FLAGS:
            raise unknown_name("model in --models", name, list(_MODEL_FLAGS))
    harness.use_cores(flags.cores)
    cases: list[Row] = [{"what": "epoch", "model": name} for name in flags.models]
    cases += [{"what": "start"}] if flags.start else []
    cases += [{"what": "seeds", "model": name} for name in flags.models] if flags.seeds else []
    with harness.record_of("training", flags) as record:
        for case in record.missing(cases):
            with record.row(case) as row:
                if case["what"] == "epoch":
                    row |= time_epoch(flags, case["model"])
                elif case["what"] == "start":
                    row |= time_start(flags)
                else:
                    row |= time_seeds(flags, case["model"])
                log.info("\n".join(f"{name}: {value}" for name, value in row.items()))


def time_epoch(flags: Flags, name: str) -> Row:
    """Return the seconds of an epoch and of an evaluation for a model at its default sizes."""
    config = Config(
        dataset=flags.dataset,
        data_dir=flags.data_folder,
        objective=flags.objective,
        **_MODEL_FLAGS[name],
    )
    config = resolved(config)
    dataset, split = read_data(config)
    step = DataStep(config, dataset, split)
    feed = step.feed
    rows, seconds, waited = iterate(feed), [], 0.0
    step.run(next(rows))
    for _ in range(flags.steps):
        began = time.perf_counter()
        batch = next(rows)
        waited += time.perf_counter() - began
        step.run(batch)
        seconds.append(time.perf_counter() - began)
    rows.close()
    evaluator = make_evaluator(config, dataset, split, step.graphdef, one_device())
    counts_V = training_counts(split.train, dataset.num_items)
    for _ in range(2):  # the second time is that of a compiled program
        began = time.perf_counter()
        summarise(evaluator.rank(step.state.params, "valid"), split.valid, counts_V)
    full_batches = len(feed.examples) / feed.batch_size
    return {
        # Computed from the median step, since a shared machine may delay single steps.
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
        "step_memory_bytes": step.program.memory_bytes,
        "device": device_name(),
    }


def time_start(flags: Flags) -> Row:
    """Return the seconds from the command's start to the compiled step, for two starts in turn."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "second"):
            began = time.perf_counter()
            for line in _train(flags, folder, name, "--max-steps", "1"):
                if line.startswith("compiled"):
                    seconds[f"{name}_seconds"] = time.perf_counter() - began
    return seconds


def time_seeds(flags: Flags, name: str) -> Row:
    """Return the seconds of whole commands: one for all seeds, and one for each seed.

    Both ways begin without compiled programs, but later commands find those of the first.
    """
    assert flags.seeds is not None
    own = ["--epochs", str(flags.epochs)]
    for flag, value in _MODEL_FLAGS[name].items():
        own += [f"--{flag}", value]
    seconds: dict[str, Any] = {}
    each = [("--seed", seed) for seed in range(flags.seeds)]
    for way, commands in (("at_once", [("--seeds", flags.seeds)]), ("one_by_one", each)):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            for flag, number in commands:
                for _ in _train(flags, folder, f"{flag}-{number}", *own, flag, str(number)):
                    pass
            seconds[f"{way}_seconds"] = time.perf_counter() - began
    return {**seconds, "speed_up": seconds["one_by_one_seconds"] / seconds["at_once_seconds"]}


def _train(flags: Flags, folder: str, name: str, *own: str) -> Iterator[str]:
    """Run train.py with its run folder and caches in ``folder``; yield the lines that it prints."""
    words = ["--dataset", flags.dataset, "--run-dir", str(Path(folder) / name), *own]
    words += ["--objective", flags.objective] if flags.objective else []
    command = harness.train_command(flags.data_dir, *words)
    environment = os.environ | {"XDG_CACHE_HOME": folder}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


if __name__ == "__main__":
    harness.run(Flags, main)
