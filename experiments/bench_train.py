"""Measure training, evaluation and start-up: python experiments/bench_train.py --output FILE.

Everything runs on the given number of CPU cores (or the accelerator), in one process a variant,
so that the figures of one file can be compared with each other.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from echojax.command_line import parse
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
    """Training steps to time, a variant."""


def main() -> None:
    """Run the command."""
    with exit_on_user_error():
        flags = parse(Flags, args=sys.argv[1:])
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: flags.cores])
        results = {
            "command": f"python experiments/bench_train.py --dataset {flags.dataset} "
            f"--cores {flags.cores} --steps {flags.steps}",
            "date": date.today().isoformat(),
            "processor": processor(),
            **{variant: measure(flags, variant) for variant in ("echojax", "official")},
            "start": measure_start(flags),
        }
        flags.output.write_text(json.dumps(results, indent=2) + "\n")
        print(json.dumps(results, indent=2))


def measure(flags: Flags, variant: str) -> dict[str, Any]:
    """Return seconds an epoch and an evaluation of one variant at the authors' configuration."""
    # Imported behind the choice of cores: XLA counts them when it starts.
    import jax
    import optax
    from rich.console import Console

    from echojax.config import Config
    from echojax.data import batches, iterate
    from echojax.models import build_model
    from echojax.training.prepared import make_evaluator, read_data, resolved
    from echojax.training.progress import Display
    from echojax.training.results import device_name, package_versions
    from echojax.training.run import compile_step, target_counts
    from echojax.training.state import create_state

    config = resolved(Config(dataset=flags.dataset, data_dir=flags.data_dir, variant=variant))  # type: ignore[arg-type]
    display = Display(Console(stderr=True))
    dataset, split = read_data(config, display.say)
    optimizer = optax.adam(config.learning_rate)
    graphdef, state = create_state(build_model(config, dataset.num_items), optimizer, config.seed)
    feed = batches(split.train, config.batch_size or 1, config.seed)
    counts_V = target_counts(dataset, split)
    step = compile_step(config, counts_V, graphdef, optimizer, state, feed, display)
    rows, seconds, waited = iterate(feed), [], 0.0
    state, loss = step(state, next(rows))
    jax.block_until_ready(loss)
    for _ in range(flags.steps):
        began = time.perf_counter()
        batch = next(rows)
        waited += time.perf_counter() - began
        state, loss = step(state, batch)
        jax.block_until_ready(loss)
        seconds.append(time.perf_counter() - began)
    rows.close()
    evaluate = make_evaluator(config, dataset, split, graphdef)
    evaluate(state.params, "valid")
    began = time.perf_counter()
    evaluate(state.params, "valid")
    full_batches = len(split.train) / feed.batch_size
    return {
        # The median step: a shared machine holds single steps up.
        "seconds_per_epoch": statistics.median(seconds) * full_batches,
        "seconds_per_epoch_fastest_step": min(seconds) * full_batches,
        "examples": len(split.train),
        "batch_size": feed.batch_size,
        "max_len": config.max_len,
        "input_wait_share": waited / sum(seconds),
        "evaluation_seconds": time.perf_counter() - began,
        "evaluated_users": len(split.valid),
        "step_memory_bytes": getattr(step.memory_analysis(), "temp_size_in_bytes", None),
        "device": device_name(),
        "versions": package_versions(),
    }


def measure_start(flags: Flags) -> dict[str, float]:
    """Return seconds from the command to a compiled first step, first and second start."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        for name in ("first", "second"):
            command = [
                sys.executable, str(Path(__file__).parent / "train.py"), "--dataset",
                flags.dataset, "--max-steps", "1", "--run-dir", str(Path(folder) / name),
            ]  # fmt: skip
            if flags.data_dir:
                command += ["--data-dir", flags.data_dir]
            began = time.perf_counter()
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("compiled"):
                    seconds[name] = time.perf_counter() - began
            process.wait()
    return seconds


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
