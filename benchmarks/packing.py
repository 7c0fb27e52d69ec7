"""Compare training on packed rows with rows of their own: python benchmarks/packing.py.

The batches hold the same histories and teach the same; what differs is how much padding is computed
with them. Time is this process's on its CPU cores, batch by batch in turn: other processes that use
the machine meanwhile lengthen it little.
"""

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

import harness
from echojax.config import Config
from echojax.mesh import one_device
from echojax.models import build_model
from echojax.training.builders import (
    make_step,
    read_data,
    resolved,
    target_counts,
    training_batches,
)
from echojax.training.optimizer import make_optimizer
from echojax.training.step import compile_step, create_state
from harness import Row, log


@dataclass(frozen=True)
class Flags:
    """Time Mamba4Rec's training steps in both layouts."""

    out: Path | None = None
    """The JSON file (runs/packing-DATE-TIME.json)."""
    datasets: tuple[str, ...] = ("amazon-beauty", "ml-1m")
    """Names of data sets."""
    data_dir: Path | None = None
    """Folder that holds the data sets' files."""
    steps: int = 8
    """Training steps to time in each layout, after one that is not counted."""


class Training:
    """The steps of a run; ``seconds`` are those of making each batch and computing with it."""

    def __init__(self, config: Config, dataset: Any, split: Any):
        mesh, optimizer = one_device(), make_optimizer(config)
        self.feed, self.seconds = training_batches(config, split, mesh), list[float]()
        graphdef, self.state = create_state(build_model(config, dataset.num_items), optimizer, 0)
        counts_V, lengths_M = target_counts(dataset, split), self.feed.examples.lengths_M
        step = make_step(config, counts_V, lengths_M, graphdef, optimizer, mesh)
        self.run = compile_step(step, self.state, self.feed[0]).run

    def step(self, number: int) -> None:
        """Do a step."""
        began = time.process_time()
        self.state, _ = jax.block_until_ready(self.run(self.state, self.feed[number]))
        self.seconds.append(time.process_time() - began)


def measure(flags: Flags) -> None:
    """Time the steps and write the file."""
    harness.check_positive(steps=flags.steps)
    harness.use_cores(1)
    with harness.record_of("packing", flags) as record:
        for case in record.missing([{"dataset": name} for name in flags.datasets]):
            folder = None if flags.data_dir is None else str(flags.data_dir)
            config = Config(model="mamba4rec", data_dir=folder, **case)
            apart = resolved(config)
            assert apart.batch_size is not None
            data = read_data(apart)
            together = replace(apart, pack=True)
            layouts = {"apart": Training(apart, *data), "packed": Training(together, *data)}
            for number in range(1 + flags.steps):
                for training in layouts.values():
                    training.step(number)
            windows = layouts["apart"].feed.examples
            row: Row = {
                "events_a_window": float(windows.lengths_M.mean()),
                "max_len": windows.max_len,
            }
            for name, training in layouts.items():
                low, median, high = statistics.quantiles(training.seconds[1:], n=4)
                row |= {
                    f"{name}_cpu_seconds_a_step": median,
                    f"{name}_quartiles": [low, high],
                    f"{name}_examples_a_cpu_second": apart.batch_size / median,
                }
            record.add(case | row)
            log.info("\n".join(f"{name}: {value}" for name, value in row.items()))


if __name__ == "__main__":
    harness.run(Flags, measure)
