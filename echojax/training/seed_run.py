"""One seed's training: where it stands, what it saves; and several of them side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from echojax.config import Config
from echojax.errors import UserError
from echojax.mesh import axes_of, batch_specs, over_devices, state_specs
from echojax.training.checkpoints import Checkpoints
from echojax.training.metric_log import MetricLog
from echojax.training.progress import Standing
from echojax.training.state import TrainState
from echojax.training.step import StepFunction


@dataclass
class SeedRun:
    """A seed's run.

    Args:
        config: with this seed.
        folder: its run folder.
        state: its state when it was last out of the stack of those in training.
        standing: its progress.
        checkpoints: in its folder.
        stopped: why it was done, once it is.
    """

    config: Config
    folder: Path
    state: TrainState
    standing: Standing
    checkpoints: Checkpoints
    stopped: str = ""

    def stop_reason(self, steps_per_epoch: int) -> str | None:
        """Return why this seed is done, or ``None`` while it is not."""
        return self.standing.stop_reason(self.config, self.standing.steps, steps_per_epoch)

    def open_log(self) -> MetricLog:
        """Return its metrics.jsonl, open, as it was at the step it stands at."""
        return MetricLog(self.folder, self.standing.steps, self.config)

    def save(self, state: TrainState) -> None:
        """Write a checkpoint of ``state`` and of the standing."""
        self.checkpoints.save(state, asdict(self.standing))

    def finite(self, state: TrainState) -> TrainState:
        """Return the state, on the host, if it is worth keeping.

        A loss is finite one step longer than the update that it leads to.

        Raises:
            UserError: a number of it is not finite.
        """
        state = jax.device_get(state)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)):
            raise self.diverged(f"the update of step {state.step}")
        return state

    def diverged(self, what: str) -> UserError:
        """Return the error for ``what``, a part of training that is NaN or infinite."""
        return UserError(
            f"{what} of seed {self.config.seed} is not finite; the last good checkpoint is kept. "
            "Try a smaller --learning-rate, another --seed, or look for odd values in the data"
        )

    def go_back(self, start: TrainState, newest: int | None = None) -> bool:
        """Take state and standing from the last checkpoint; return whether there was one.

        Args:
            start: the state before the first step.
            newest: the latest step to go back to.
        """
        found = self.checkpoints.restore(start, newest=newest)
        self.state, progress = (found.state, found.progress) if found else (start, {})
        if unknown := sorted(progress.keys() - {field.name for field in fields(Standing)}):
            raise UserError(
                f"{self.folder}: the checkpoint of step {self.state.step} was written by a newer "
                f"version: it has {unknown[0]}; go on with that version"
            )
        self.standing = Standing(**progress)
        return found is not None


def go_back_together(runs: Sequence[SeedRun], starts: Sequence[TrainState], per_epoch: int) -> None:
    """Resume every seed from its checkpoints, as far as they were trained together all at one step.

    A kill between two seeds' checkpoints leaves the first of them ahead, in training or ended: it
    goes back to the step that the others stand at, and is trained beside them again. A seed that
    has no checkpoint of that step ended long before or after; it stays where it is.
    """
    for run, start in zip(runs, starts, strict=True):
        run.go_back(start)
    while active := [run.standing.steps for run in runs if run.stop_reason(per_epoch) is None]:
        earliest = min(active)
        ahead = [
            i
            for i, run in enumerate(runs)
            if run.standing.steps > earliest and _was_at(run.checkpoints.steps(), earliest)
        ]
        if not ahead:
            return
        for i in ahead:
            runs[i].go_back(starts[i], newest=earliest)


def _was_at(steps: list[int], step: int) -> bool:
    """Say whether a run can go back to ``step``; to the start only from its first checkpoint."""
    return step in steps or (step == 0 and len(steps) == 1)


def stacked(states: Sequence[TrainState]) -> TrainState:
    """Return the states side by side: every array has a leading axis S."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def unstacked(states: TrainState) -> list[TrainState]:
    """Return each seed's own state."""
    return [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(states.step.shape[0])]


def side_by_side(step: StepFunction, mesh: Mesh, parallel: str = "shard_map") -> Any:
    """Return ``step`` for stacked states and batches, mapped over ``mesh``, jitted.

    ``steps(states, batches, asked)`` returns states, losses and the largest of what the devices'
    hosts ask, (devices,) int32, the same on all hosts. The rows of every batch are spread over the
    devices (``mesh.spread``, for ``pmap`` ``mesh.stack_shares``); ``shard_map`` donates the old
    states.

    An accelerator computes the seeds at once. A CPU's cores are busy with one, and the arrays of
    several leave its caches: there they follow each other inside the program, 1.5 times faster.
    """
    axes = axes_of(mesh)

    def steps(
        states: TrainState, batches: Any, asked: jax.Array
    ) -> tuple[TrainState, jax.Array, jax.Array]:
        seeds = (states, batches)
        if states.step.shape[0] == 1:  # a loop would copy its state
            alone = step(*jax.tree.map(lambda x: x[0], seeds))
            states, losses = jax.tree.map(lambda x: x[None], alone)
        elif jax.default_backend() == "cpu":
            states, losses = jax.lax.map(lambda seed: step(*seed), seeds)
        else:
            states, losses = jax.vmap(step)(*seeds)
        asked = jnp.max(asked)
        return states, losses, jax.lax.pmax(asked, axes.rows) if axes.rows else asked

    if axes.rows and parallel == "pmap":
        (axis,), devices = axes.rows, list(mesh.devices.flat)
        return jax.pmap(steps, axis, in_axes=(None, 1, 0), out_axes=None, devices=devices)

    def mapped(states: TrainState, batches: Any, asked: jax.Array) -> Any:
        spread, rows = state_specs(states, 1), (batch_specs(batches, 1), batch_specs(asked))
        return over_devices(steps, mesh, (spread, *rows), (spread, P(), P()))(
            states, batches, asked
        )

    return jax.jit(mapped, donate_argnums=0)
