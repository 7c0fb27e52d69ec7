"""Suites of runs made by hand: folders as training leaves them, with ranks drawn at random."""

import json
from functools import partial

import numpy as np
import pytest

from echojax.config import as_dict
from echojax.data import Examples
from echojax.evaluation import Ranked, summarise
from echojax.reproduction.cells import plan
from echojax.reproduction.suite_file import read_suite
from echojax.reproduction.write_page import write_page
from echojax.training.builders import resolved

USERS = 60
SUITE = """
title = "Two models <b>& more</b>"
about = "Made by hand."
seeds = [0, 1, 2]
reference = "ours"

[flags]
learning_rate = 0.01

[datasets.ring]
data_path = "ring.inter"
k_core = 2

[rows.popularity]
model = "popularity"

[rows.sasrec]
model = "sasrec"
d_model = 8

[rows.hstu]
model = "hstu"

[rows.ours]
model = "echomamba4rec"
d_model = 8

[ablation.no-filter]
filter = false

[ablation.layers-2]
layers = 2
"""


def examples():
    """Return one test example a user, with histories of 2 to 61 items."""
    start = np.arange(USERS) * 100
    target = start + np.arange(2, USERS + 2)
    return Examples(np.ones(6100, np.int32), start, target, np.arange(USERS, dtype=np.int32), 10)


def write_run(cell, skill, *, ranks=True, sha256="5" * 64, memory=2**20):
    """Write a finished run whose targets stand the higher the larger ``skill`` is."""
    rng = np.random.default_rng([cell.seed, len(cell.row), round(100 * skill)])
    shown, config = examples(), as_dict(resolved(cell.config))
    parts, arrays = {}, {}
    for part in ("valid", "test"):
        rank_M = (1 + rng.exponential(30 / skill, USERS)).astype(np.int32)
        top_MxK = rng.integers(1, 30, (USERS, 10)).astype(np.int32)
        parts[part] = summarise(Ranked(rank_M, top_MxK), shown, np.ones(30, int))
        lengths = (shown.target_M - shown.start_M).astype(np.int32)
        arrays |= {f"{part}_rank_M": rank_M, f"{part}_user_M": shown.user_M,
                   f"{part}_length_M": lengths}  # fmt: skip
    results = {
        "config": config, "seed": cell.seed,
        "dataset": {"name": "ring", "users": USERS, "items": 29, "interactions": 999,
                    "sha256": sha256},
        "protocol": {"split": "leave-one-out", "ranking": "full", "exclude_seen": False},
        **parts,
        "baselines": {name: parts for name in ("popularity", "markov", "optimum")},
        "train": {"steps": 90, "epochs": 9.0, "best_epoch": 3, "best_step": 30, "seconds": 18.0,
                  "parameters": 1234, "peak_memory_bytes": memory},
        "versions": {"python": "3.11", "jax": "0.10.2"}, "device": "2 cores of x86_64 (cpu)",
        "processor": "A <fast> CPU", "date": "2026-01-02", "commit": "abc123",
    }  # fmt: skip
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / "config.json").write_text(json.dumps(config))
    (cell.folder / "results.json").write_text(json.dumps(results))
    if ranks:
        np.savez(cell.folder / "ranks.npz", **arrays)


SKILL = {"popularity": 1, "sasrec": 2, "hstu": 6, "ours": 8, "no-filter": 7, "layers-2": 8.5}


def suite_in(folder, text=SUITE, name="byhand"):
    """Write a suite's file; return (suite, cells, folder of its runs)."""
    path = folder / f"{name}.toml"
    path.write_text(text)
    suite, out = read_suite(path), folder / "out"
    return suite, plan(suite, out, None), out


def finished_in(folder):
    """Return (suite, cells, folder) with every run finished."""
    suite, cells, out = suite_in(folder)
    for cell in cells:
        write_run(cell, SKILL[cell.row])
    return suite, cells, out


def new_record():
    """Return what a suite's folder remembers."""
    machine = {"processor": "A <fast> CPU", "cores": 2, "versions": {"jax": "0.10.2"}}
    return {"suite": "byhand", "command": "python experiments/reproduce.py --suite byhand",
            "machine": machine}  # fmt: skip


@pytest.fixture
def make_suite(tmp_path):
    """Return ``suite_in`` for a folder of the test's own."""
    return partial(suite_in, tmp_path)


@pytest.fixture
def finished_suite(tmp_path):
    """Return (suite, cells, folder) with every run finished; tests may change it."""
    return finished_in(tmp_path)


@pytest.fixture
def record():
    """Return what a suite's folder remembers."""
    return new_record()


@pytest.fixture(scope="session")
def shown(tmp_path_factory):
    """Return (folder, cells) of a finished suite with its page."""
    suite, cells, out = finished_in(tmp_path_factory.mktemp("shown"))
    write_page(out, suite, cells, new_record())
    return out, cells
