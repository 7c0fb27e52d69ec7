"""Run folders made by hand, with text that would break a careless page."""

import json

import numpy as np
import pytest

from echojax.data import Examples
from echojax.evaluation.metrics import metric_names, summarise
from echojax.evaluation.ranking import Ranked
from echojax.report import write_report

NASTY = "<script>alert('1')</script> & \"quotes\" $x_1$ {} {{ 1 }} \x1b[31m"


def examples_of(lengths):
    """Return a test example of each of some users, who have histories of these lengths."""
    users = np.arange(len(lengths), dtype=np.int32)
    start = users.astype(np.int64) * 100
    return Examples(np.ones(100 * users.size, np.int32), start, start + lengths, users, 10)


def summary(examples, seed):
    rng = np.random.default_rng(seed)
    ranked = Ranked(
        rng.integers(1, 30, len(examples)).astype(np.int32),
        rng.integers(1, 30, (len(examples), 10)).astype(np.int32),
        rng.random(len(examples)).astype(np.float32),
    )
    return summarise(ranked, examples, rng.integers(1, 99, 30))


def results_of_40_users():
    examples = examples_of(np.arange(1, 41) * 2)
    return {
        "config": {},
        "seed": 3,
        "dataset": {"name": NASTY, "users": 40, "history_length": {"min": 3, "25": 9, "max": 70}},
        "protocol": {"split": "leave-one-out", "exclude_seen": False, "ties": "count against it"},
        "valid": summary(examples, seed=1),
        "test": summary(examples, seed=2),
        "baselines": {
            name: {"valid": summary(examples, seed=3), "test": summary(examples, seed=4)}
            for name in ("popularity", "markov", "optimum")
        },
        "train": {"seconds": 4321.0, "examples_per_second": 1234.5, "stopped": NASTY},
        "tuning": {"trials": 20, "epochs": 9.5, "seconds": 61.0, "found": {"dropout": 0.25}},
        "versions": {"jax": "0.10.2"},
        "device": "1 x A100 (gpu)",
    }


def write_run(folder, results):
    folder.mkdir()
    config = {"model": "echomamba4rec", "variant": "echojax", "dataset": "x", "data_path": NASTY,
              "max_len": 11, "seed": 3, "dropout": 0.2, "resume": False, "layers": 2}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.json").write_text(json.dumps(results))
    lines = []
    for epoch in range(1, 5):
        scores = {name: 0.1 * epoch * (5 - epoch) for name in metric_names()}
        lines.append({"kind": "train", "step": 9 * epoch, "epoch": epoch, "loss": 7 - epoch})
        lines.append({"kind": "valid", "step": 9 * epoch, "epoch": epoch, "loss": 1.0, **scores})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.savez(folder / "insight.npz", **insight())
    return folder


def insight():
    """Return arrays as ``echojax.analysis`` writes them, of a model of two layers."""
    rng = np.random.default_rng(0)
    arrays = {}
    for when in ("before", "after"):
        for layer in range(2):
            response = rng.normal(size=(6, 8, 2)).astype(np.float32).view(np.complex64)[..., 0]
            arrays[f"filter/{layer}/{when}"] = response
            for direction in ("forward", "backward"):
                steps = np.stack([np.logspace(-4, 1, 50), rng.dirichlet(np.ones(50))], axis=1)
                arrays[f"time_steps/{layer}/{direction}/{when}"] = steps
                memory = rng.lognormal(size=(16, 4)).astype(np.float32)
                arrays[f"memory/{layer}/{direction}/{when}"] = memory
        for level in ("events", "read"):
            for way in ("", "/forward", "/backward"):
                shares = rng.dirichlet(np.ones(13))
                shares[11] = np.nan  # no history has an event so old that is not its first
                arrays[f"influence/{level}{way}/{when}"] = shares
    return arrays


@pytest.fixture
def results():
    return results_of_40_users()


@pytest.fixture
def run_dir(tmp_path, results):
    """Return the folder of a finished run; tests may change it."""
    return write_run(tmp_path / "run", results)


@pytest.fixture(scope="session")
def finished_page(tmp_path_factory):
    """Return the report of a finished run."""
    folder = write_run(tmp_path_factory.mktemp("report") / "run", results_of_40_users())
    return write_report(folder).read_text()
