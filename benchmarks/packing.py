"""How much faster is training on packed rows? python benchmarks/packing.py.

The batches hold the same histories, packed or one per row, and differ in the amount of padding. The
layouts take turns, and the time is CPU time of this process, so that other processes on the machine
have little influence.
"""

import statistics
import time
from dataclasses import dataclass, replace

import harness
from echojax.config import Config
from echojax.flags import Positive
from echojax.training.builders import read_data, resolved
from harness import Row, log
from step import DataStep


@dataclass(frozen=True)
class Flags(harness.DataFlags):
    """Time Mamba4Rec's training steps in both layouts."""

    datasets: tuple[str, ...] = ("amazon-beauty", "ml-1m")
    """Names of data sets."""
    steps: Positive = 8
    """Training steps to time in each layout, after a first one that is not counted."""


def main(flags: Flags) -> None:
    """Time the steps and write the file."""
    harness.use_cores(1)
    with harness.record_of("packing", flags) as record:
        for case in record.missing([{"dataset": name} for name in flags.datasets]):
            config = Config(model="mamba4rec", data_dir=flags.data_folder, **case)
            apart = resolved(config)
            assert apart.batch_size is not None
            data = read_data(apart)
            together = replace(apart, pack=True)
            layouts = {"apart": DataStep(apart, *data), "packed": DataStep(together, *data)}
            # Making the batches is timed, too.
            seconds: dict[str, list[float]] = {name: [] for name in layouts}
            for number in range(1 + flags.steps):
                for name, step in layouts.items():
                    began = time.process_time()
                    step.run(step.feed[number])
                    seconds[name].append(time.process_time() - began)
            windows = layouts["apart"].feed.examples
            row: Row = {
                "events_a_window": float(windows.lengths_M.mean()),
                "max_len": windows.max_len,
            }
            for name, taken in seconds.items():
                low, median, high = statistics.quantiles(taken[1:], n=4)
                row |= {
                    f"{name}_cpu_seconds_a_step": median,
                    f"{name}_quartiles": [low, high],
                    f"{name}_examples_a_cpu_second": apart.batch_size / median,
                }
            record.add(case | row)
            log.info("\n".join(f"{name}: {value}" for name, value in row.items()))


if __name__ == "__main__":
    harness.run(Flags, main)
