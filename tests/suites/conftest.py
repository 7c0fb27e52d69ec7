"""Suites of runs made by hand: folders as training leaves them, with ranks drawn at random."""

import io
import json
import shutil
from functools import partial

import numpy as np
import pytest
from rich.console import Console

from echojax.config import as_dict
from echojax.evaluation.metrics import summarise
from echojax.evaluation.ranking import Ranked
from echojax.flags import ReproduceFlags
from echojax.suites import figures
from echojax.suites.page import write_page
from echojax.suites.reproduce import reproduce
from echojax.suites.results import Results
from echojax.suites.runs import plan
from echojax.suites.suite_file import read_suite
from echojax.training.builders import resolved
from tests.report.conftest import examples_of

USERS = 60
PICTURES = figures.pictures
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

[variants.popularity]
model = "popularity"

[variants.sasrec]
model = "sasrec"
d_model = 8

[variants.hstu]
model = "hstu"

[variants.ours]
model = "echomamba4rec"
d_model = 8

[ablation.no-filter]
filter = false

[ablation.layers-2]
layers = 2
"""


EXAMPLES = examples_of(np.arange(2, USERS + 2))  # one a user, with histories of 2 to 61 items


def write_run(run, skill, *, ranks=True, sha256="5" * 64, memory=2**20, best_step=30):
    """Write a finished run whose targets stand the higher the larger ``skill`` is."""
    rng = np.random.default_rng([run.seed, len(run.name.split("/")[1]), round(100 * skill)])
    parts, arrays, config = {}, {}, as_dict(resolved(run.config))
    for part in ("valid", "test"):
        rank_M = (1 + rng.exponential(30 / skill, USERS)).astype(np.int32)
        top_MxK = rng.integers(1, 30, (USERS, 10)).astype(np.int32)
        parts[part] = summarise(Ranked(rank_M, top_MxK), EXAMPLES, np.ones(30, int))
        lengths = (EXAMPLES.target_M - EXAMPLES.start_M).astype(np.int32)
        arrays |= {f"{part}_rank_M": rank_M, f"{part}_user_M": EXAMPLES.user_M,
                   f"{part}_length_M": lengths}  # fmt: skip
    results = {
        "config": config, "seed": run.seed,
        "dataset": {"name": "ring", "users": USERS, "items": 29, "interactions": 999,
                    "sha256": sha256},
        "protocol": {"split": "leave-one-out", "ranking": "full", "exclude_seen": False},
        **parts,
        "baselines": {name: parts for name in ("popularity", "markov", "optimum")},
        "train": {"steps": 90, "epochs": 9.0, "best_epoch": 3, "best_step": best_step,
                  "seconds": 18.0, "parameters": 1234, "peak_memory_bytes": memory},
        "versions": {"python": "3.11", "jax": "0.10.2"}, "device": "2 cores of x86_64 (cpu)",
        "processor": "A <fast> CPU", "date": "2026-01-02", "commit": "abc123",
    }  # fmt: skip
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.json").write_text(json.dumps(config))
    (run.folder / "results.json").write_text(json.dumps(results))
    if ranks:
        np.savez(run.folder / "ranks.npz", **arrays)


SKILL = {"popularity": 1, "sasrec": 2, "hstu": 6, "ours": 8, "no-filter": 7, "layers-2": 8.5}


def suite_in(folder, text=SUITE, name="byhand"):
    """Write a suite's file; return (suite, runs, folder of its runs)."""
    path = folder / f"{name}.toml"
    path.write_text(text)
    suite, out = read_suite(path), folder / "out"
    return suite, plan(suite, out, None), out


def make(suite, out, **flags):
    """Run the command on a suite's file in this process; return whether all is well."""
    flags = ReproduceFlags(suite=str(suite), out=out, **flags)
    return reproduce(flags, Console(file=io.StringIO()))


def packed(suite, runs, out):
    """Return the results of the run folders, and what is damaged."""
    results = Results(out, suite.name)
    return results, results.pack(runs)


@pytest.fixture(scope="package", autouse=True)
def _without_figures():
    """They take their time: pages have them only where ``page_of`` is asked for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "pictures", lambda *of_page: [])
        yield


def page_of(suite, runs, out, *, drawn=False):
    """Write the page of what is in the run folders; return it. ``drawn``: with figures."""
    results, damaged = packed(suite, runs, out)
    out.mkdir(exist_ok=True)
    command = f"echojax reproduce --suite {suite.name}"
    with pytest.MonkeyPatch.context() as patch:
        if drawn:
            patch.setattr(figures, "pictures", PICTURES)
        write_page(suite, runs, results, command=command, damaged=damaged)
    return (out / "page.html").read_text()


@pytest.fixture
def make_suite(tmp_path):
    """Return ``suite_in`` for a folder of the test's own."""
    return partial(suite_in, tmp_path)


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory):
    """Return the folder of a suite's runs, every one of which is finished."""
    _, runs, out = suite_in(tmp_path_factory.mktemp("finished"))
    for run in runs:
        write_run(run, SKILL[run.variant])
    return out


@pytest.fixture
def finished_suite(finished_runs, tmp_path):
    """Return (suite, runs, folder) with every run finished; tests may change it."""
    shutil.copytree(finished_runs, tmp_path / "out")
    return suite_in(tmp_path)


@pytest.fixture(scope="session")
def shown(finished_runs, tmp_path_factory):
    """Return (folder, runs) of a finished suite with its page."""
    folder = tmp_path_factory.mktemp("shown")
    shutil.copytree(finished_runs, folder / "out")
    suite, runs, out = suite_in(folder)
    page_of(suite, runs, out, drawn=True)
    return out, runs
