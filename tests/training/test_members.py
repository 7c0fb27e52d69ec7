"""Members that differ in knobs, trained together: each as if it had been trained alone."""

import jax
import numpy as np
import pytest
from rich.console import Console

from echojax.config import Config
from echojax.run_files import read_records
from echojax.training.builders import read_data, resolved
from echojax.training.checkpoints import load_checkpoint
from echojax.training.members import train_members
from echojax.training.run_folder import read_own_config
from tests.training.conftest import train

SIZES = {
    "model": "sasrec", "d_model": 8, "heads": 1, "layers": 1, "max_len": 6, "batch_size": 16,
    "k_core": 2, "epochs": 3, "warmup": 0.2, "microbatch": 8,
}  # fmt: skip
# Every knob is 0 for some and not for others, but the rate.
KNOBS = [
    {"learning_rate": 0.02, "dropout": 0.0, "weight_decay": 0.1, "label_smoothing": 0.0},
    {"learning_rate": 0.01, "dropout": 0.3, "weight_decay": 0.0, "label_smoothing": 0.2},
    {"learning_rate": 0.01, "dropout": 0.3, "weight_decay": 0.1, "label_smoothing": 0.2, "seed": 1},
]


@pytest.fixture(scope="module")
def ring(make_ring):
    return make_ring(users=40, in_order=0.7, seed=0)


@pytest.fixture(scope="module")
def together(ring):
    """Return a function that trains members in folders of one."""

    def call(folder, knobs=KNOBS, decide=None, **changes):
        configs = [resolved(Config(data_path=str(ring), **SIZES | changes | own)) for own in knobs]
        dataset, split = read_data(configs[0])
        unread = split._replace(test=None)  # to read it is an error
        folders = [folder / f"m{i}" for i in range(len(knobs))]
        return train_members(configs, dataset, unread, folders, Console(quiet=True), decide=decide)

    return call


@pytest.fixture(scope="module")
def trained(together, tmp_path_factory):
    """Return the folder of the members, how each ended, and what ``decide`` was told."""
    folder, told = tmp_path_factory.mktemp("members"), []

    def decide(epoch, scores):
        told.append((epoch, scores))
        return [1] if epoch == 2 else []

    return folder, together(folder, decide=decide), told


def losses_of(folder):
    return [record["loss"] for record in read_records(folder / "metrics.jsonl") if "loss" in record]


def weights_of(folder, step):
    return jax.tree.leaves(load_checkpoint(folder, read_own_config(folder), 13, step=step).params)


@pytest.mark.parametrize("member", range(len(KNOBS)))
def test_a_member_is_what_it_is_alone(trained, ring, tmp_path, member):
    folder, outcomes, _ = trained
    epochs = 2 if member == 1 else 3
    train(ring, tmp_path / "alone", **SIZES | KNOBS[member])
    ours, alone = folder / f"m{member}", tmp_path / "alone"
    np.testing.assert_allclose(losses_of(ours), losses_of(alone)[: 2 * epochs], rtol=1e-5)
    step = outcomes[member].steps
    for a, b in zip(weights_of(ours, step), weights_of(alone, step), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=5e-4)
