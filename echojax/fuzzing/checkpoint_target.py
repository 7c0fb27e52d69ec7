"""A run's checkpoints with any of their files changed: the very state that was saved, or a line."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from echojax.fuzzing.mutations import mutate_bytes
from echojax.training.checkpoints import Checkpoints
from echojax.training.step import TrainState, create_state

_PROGRESS = {"steps": 7, "best_step": 7, "best_ndcg": 0.25, "seconds": 1.5}


class Saved(NamedTuple):
    """A checkpoint on disk.

    Attributes:
        folder: the checkpoints' folder.
        state: what was saved.
    """

    folder: Path
    state: TrainState


def save_one(folder: Path) -> Saved:
    """Save a small state."""
    _, state = create_state(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), optax.adam(1e-3), 0)
    state = jax.device_get(state._replace(step=jnp.int32(7)))
    checkpoints = Checkpoints(folder)
    checkpoints.save(state, _PROGRESS)
    checkpoints.close()
    return Saved(folder, state)


def damaged(saved: Saved, folder: Path, rng: random.Random) -> Callable[[], None]:
    """Copy the checkpoint, change one of its files and return what reads it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved.folder, folder)
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    if rng.random() < 0.1:
        path.unlink()
    else:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))

    def read() -> None:
        checkpoints = Checkpoints(folder)
        try:
            found = checkpoints.restore(saved.state)
        finally:
            checkpoints.close()
        assert found is not None, "no checkpoint, and no line about it"
        state, progress, _ = found
        assert progress == _PROGRESS, "another progress"
        same = jax.tree.map(np.array_equal, state, saved.state)
        assert all(jax.tree.leaves(same)), "another state"

    return read
