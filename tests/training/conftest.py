"""Small runs in this process: users who walk around a ring of 12 items, with some noise."""

import io
import logging
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from rich.console import Console

from echojax.command_line import log_to
from echojax.config import Config
from echojax.parameters import names_of
from echojax.run_files import read_records
from echojax.training.checkpoints import load_checkpoint
from echojax.training.run import run
from echojax.training.run_folder import read_items, read_own_config
from echojax.training.seed_run import SeedRun

# Quick to compile.
SIZES = {
    "model": "gru4rec", "d_model": 8, "hidden_size": 8, "max_len": 6, "batch_size": 16, "k_core": 2,
}  # fmt: skip
# Trained on a frame. It has a second parameter of a row an item, and trains on hidden items.
BERT4REC = {
    "model": "bert4rec", "d_model": 8, "heads": 2, "layers": 1, "max_len": 6, "batch_size": 32,
    "k_core": 0, "learning_rate": 0.01, "quiet": True,
}  # fmt: skip


def write_ring(path, users, in_order, seed):
    """Write the file of a ring; return its path."""
    rng, lines = np.random.default_rng(seed), []
    for user in range(users):
        item = rng.integers(12)
        for _ in range(rng.integers(6, 14)):
            item = (item + 1) % 12 if rng.random() < in_order else rng.integers(12)
            lines.append(f"u{user} i{item}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def ring(tmp_path_factory):
    return write_ring(tmp_path_factory.mktemp("data") / "ring.pairs", 40, in_order=0.7, seed=0)


def train(data, folder, **options):
    """Train on a file; return what is printed."""
    out = io.StringIO()
    log_to(console := Console(file=out))
    logging.getLogger("echojax").propagate = True  # to caplog, too
    run(Config(data_path=str(data), run_dir=str(folder), **options), console)
    return out.getvalue()


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed(before=None, after=None):
    """Let the process die inside, before or after a checkpoint is written.

    Each is a function of the run and the step, which returns whether it is this checkpoint.
    """
    save = SeedRun.save

    def dies(run, state):
        if before is not None and before(run, int(state.step)):
            raise Killed
        save(run, state)
        if after is not None and after(run, int(state.step)):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SeedRun, "save", dies)
        with pytest.raises(Killed):
            yield


def losses_of(folder):
    """Return the losses of metrics.jsonl, in training and validation."""
    return [record["loss"] for record in read_records(folder / "metrics.jsonl")]


def arrays_of(folder, step=None, *, as_trained=False):
    """Return the parameters of a run's best step, or of ``step``, by name; the items."""
    config, (items, _) = read_own_config(folder), read_items(folder)
    found = load_checkpoint(folder, config, len(items), step=step, as_trained=as_trained)
    arrays = {name: np.asarray(one[...]) for name, one in names_of(found.params).items()}
    return arrays, items.tolist()


def ring_events(items):
    """Return a frame of 24 users who walk around a ring of items."""
    walk = (np.arange(8) + np.arange(24)[:, None]).ravel() % len(items)
    return {"user": np.repeat(np.arange(24), 8), "item": np.array(items, dtype="U8")[walk]}


def assert_same_moments(one, other):
    """Compare Adam's first moments: the parameters are divided by the gradient's size."""
    moments = (jax.tree.leaves(state.opt_state[0].mu) for state in (one, other))
    for a, b in zip(*moments, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-7)
