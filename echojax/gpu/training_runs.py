"""Real training on this device: the scan that "auto" takes beside "fused"."""

import dataclasses
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax.numpy as jnp
from rich.console import Console

from echojax.config import QUICKSTART, Config
from echojax.data import DATASETS
from echojax.errors import UserError
from echojax.gpu.record import Row, Task
from echojax.not_measured import Skipped, not_measured
from echojax.training.run import run
from selective_scan.choice import chosen

_SCANS = ("auto", "fused")
_METRICS = ("hr@10", "ndcg@10")
_REAL = ("ml-1m", "ml-100k")
_EPOCHS = 2


def dataset_in(data_dir: Path | None) -> str | None:
    """Return the largest MovieLens set whose file lies in a folder; ``None`` without a folder.

    Raises:
        UserError: there is none.
    """
    if data_dir is None:
        return None
    for name in _REAL:
        source = DATASETS[name]
        files = (*source.files, *(origin.file for origin in source.origins))
        if any((data_dir / file).is_file() for file in files):
            return name
    raise UserError(
        f"--data-dir {data_dir} holds neither {' nor '.join(_REAL)}; put "
        f"{DATASETS[_REAL[0]].files[0]} there, or leave --data-dir out"
    )


def training_runs(
    data_dir: Path | None, now: Callable[[str], None], *, rehearse: bool
) -> Iterator[Task]:
    """Return a task for each data set.

    Args:
        data_dir: where a real data set lies.
        now: called before each run with what it is.
        rehearse: a tiny model, a few steps.
    """
    configs = [QUICKSTART]
    if (name := dataset_in(data_dir)) is not None:
        real = Config(dataset=name, data_dir=str(data_dir), epochs=_EPOCHS)
        configs.append(real)
    small = {"d_model": 8, "d_state": 4, "max_len": 6, "max_steps": 3, "eval_batch_size": 512}
    for config in configs:
        if rehearse:
            config = dataclasses.replace(config, **small)  # type: ignore[arg-type]
        yield config.dataset, partial(_compare, config, now)


def _compare(config: Config, now: Callable[[str], None]) -> Row:
    """Train with either scan; what "auto" learns must lie in the interval of "fused"."""
    runs: dict[str, Row] = {}
    for scan in _SCANS:
        try:
            now(f"training {config.dataset} with {scan}")
        except Skipped as reason:
            return not_measured(reason) | {"runs": runs}
        runs[scan] = _train(dataclasses.replace(config, scan=scan))
    auto, fused = (runs[scan] for scan in _SCANS)
    speed = auto["steps_per_second"] / fused["steps_per_second"]
    row: Row = {
        "status": "passed",
        "auto_is": chosen("auto", jnp.zeros(())),
        "speed_of_auto_over_fused": speed,
        "runs": runs,
    }
    outside = []
    for name in _METRICS:
        low, high = fused["test"]["interval"][name]
        if not low <= auto["test"][name] <= high:
            outside.append(f"{name} {auto['test'][name]:.4f} not in [{low:.4f}, {high:.4f}]")
    if outside:
        return row | {"status": "failed", "reason": "; ".join(outside)}
    note = f"{auto['steps_per_second']:.1f} steps/s with {row['auto_is']}, {speed:.2f} of fused"
    return row | {"note": note}


def _train(config: Config) -> Row:
    """Return the speed and the results of one run."""
    quiet = Console(file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        path = run(dataclasses.replace(config, run_dir=str(Path(folder) / "run")), quiet)
        results = json.loads((path / "results.json").read_text())
    train = results["train"]
    if not train["seconds"]:
        raise Skipped("no steps")
    return {
        "steps": train["steps"],
        "epochs": train["epochs"],
        "seconds": train["seconds"],
        "steps_per_second": train["steps"] / train["seconds"],
        "examples_per_second": train["examples_per_second"],
        "epoch_seconds": train["examples"] / train["examples_per_second"],
        "input_wait_share": train["input_wait_share"],
        "valid": _metrics(results["valid"]),
        "test": _metrics(results["test"]),
    }


def _metrics(part: Row) -> Row:
    return {name: part[name] for name in _METRICS} | {
        "interval": {name: part["interval"][name] for name in _METRICS}
    }
