"""How much time does training several trials together save? python benchmarks/trials.py.

The trials differ in learning rate, dropout, weight decay and label smoothing. They are trained one
after another, with a command for each or in one process, and together, on the same cores. Each way
runs in its own processes, without compiled programs or prepared data from before.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

import harness
from echojax.compilation import use_compilation_cache
from echojax.config import Config
from echojax.flags import Positive
from echojax.machine import device_name
from echojax.run_files import read_records
from echojax.training.builders import read_data, resolved
from echojax.training.members import KNOBS, train_members
from harness import Row, log

WAYS = {
    "commands": "`echojax train` for each trial, with the test and the report that belong to it",
    "one after the other": "in one process",
    "two processes": "half of the trials in each, together on its one core",
    "one device": "together, all cores on one trial at a time",
    "together": "a trial on each core",
}


@dataclass(frozen=True)
class Flags(harness.DataFlags):
    """Train trials one after the other and together."""

    dataset: str = "ml-100k"
    """Name of the data set."""
    cores: int = 2
    """CPU cores to use."""
    model: str = "sasrec"
    """Name of the model."""
    trials: Positive = 6
    """Number of trials."""
    epochs: Positive = 4
    """Epochs of each trial."""


def main(flags: Flags) -> None:
    """Measure the ways that have no row yet, and write the file."""
    harness.use_cores(flags.cores)
    knobs = draw(flags.trials)
    with harness.record_of("trials", flags) as record:
        for case in record.missing([{"way": way, "how": how} for way, how in WAYS.items()]):
            with record.row(case) as row, tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                train(case["way"], flags, knobs, Path(folder))
                row |= {"seconds": time.perf_counter() - began, **scores(flags, Path(folder))}
                row["knobs"], row["device"] = knobs, device_name()
                log.info(f"{row['seconds']:.1f} s, winner: trial {row['winner']}")
        measured = {row["way"]: row for row in record.document.rows if row["status"] == "measured"}
        for way, row in measured.items():
            words = f"{row['seconds']:.1f} s, winner: trial {row['winner']}"
            if way != "together" and "together" in measured:
                row["speed_up_of_together"] = row["seconds"] / measured["together"]["seconds"]
                words += f", together {row['speed_up_of_together']:.2f} times as fast"
            log.info(f"{way}: {words}")
        record.write()


def draw(trials: int) -> list[dict[str, float]]:
    """Return the hyperparameters of each trial, which are always the same ones.

    Every third trial has neither weight decay nor label smoothing.
    """
    rng = np.random.default_rng(0)
    drawn = [rng.uniform([-3.5, 0, 0, 0], [-1.5, 0.7, 0.1, 0.3]) for _ in range(trials)]
    rounded = [[float(f"{value:.2g}") for value in (10**rate, *rest)] for rate, *rest in drawn]
    return [
        dict(zip(KNOBS, [*one[:2], 0.0, 0.0] if number % 3 == 2 else one, strict=True))
        for number, one in enumerate(rounded)
    ]


def train(way: str, flags: Flags, knobs: list[dict[str, float]], folder: Path) -> None:
    """Train all trials in a way, in new processes, each trial in the folder of its number."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    trials = range(len(knobs))
    if way == "commands":
        common = ["--dataset", flags.dataset, "--model", flags.model, "--epochs", str(flags.epochs)]
        for trial in trials:
            own = [f"--{name.replace('_', '-')}={value}" for name, value in knobs[trial].items()]
            own += ["--run-dir", str(folder / str(trial))]
            command = harness.train_command(flags.data_dir, *common, *own)
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return
    shares = [trials[0::2], trials[1::2]] if way == "two processes" else [trials]
    cores: list[int | None] = [*range(len(shares))] if len(shares) > 1 else [None]
    processes = []
    for core, share in zip(cores, shares, strict=True):
        task = {
            "calls": [[trial] for trial in share] if way == "one after the other" else [[*share]],
            "core": core,
            "devices": way == "together",
            "knobs": knobs,
            "folder": str(folder),
            "config": {
                "dataset": flags.dataset,
                "data_dir": flags.data_folder,
                "model": flags.model,
                "epochs": flags.epochs,
            },
        }
        code = "import sys, trials; trials.work(sys.argv[1])"
        command = [sys.executable, "-c", code, json.dumps(task)]
        processes.append(subprocess.Popen(command, env=environment, cwd=Path(__file__).parent))
    for process in processes:
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, "trials.work")


def work(text: str) -> None:
    """Run the calls of ``train_members`` that a task, in JSON, lists, in this process."""
    task = json.loads(text)
    if task["core"] is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[task["core"] :: 2])
    if task["devices"]:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))  # one per core
    use_compilation_cache()
    config = resolved(Config(**task["config"]))
    dataset, split = read_data(config)
    configs = [dataclasses.replace(config, **knobs) for knobs in task["knobs"]]
    for trials in task["calls"]:
        folders = [Path(task["folder"], str(trial)) for trial in trials]
        chosen = [configs[trial] for trial in trials]
        train_members(chosen, dataset, split, folders, harness.console)


def scores(flags: Flags, folder: Path) -> Row:
    """Return each trial's best validation NDCG@10, and the number of the best trial."""
    ndcg = [
        max(
            record["ndcg@10"]
            for record in read_records(folder / str(trial) / "metrics.jsonl")
            if record["kind"] == "valid"
        )
        for trial in range(flags.trials)
    ]
    return {"valid_ndcg@10": ndcg, "winner": int(np.argmax(ndcg))}


if __name__ == "__main__":
    harness.run(Flags, main)
