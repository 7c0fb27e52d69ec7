"""What does a training step cost at any size? python benchmarks/step.py --items 10000000.

It measures the time and memory of item sets of millions, or histories of 100,000 events. The data
are random, and the state is created on the devices. On a CPU, --devices simulates several devices,
which share its cores and its memory.
"""

import resource
import statistics
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

import harness
from echojax.config import Config
from echojax.data import Dataset, Split
from echojax.errors import UserError
from echojax.flags import Positive
from echojax.mesh import axes_of, make_mesh, mesh_words, one_device, spread, state_specs
from echojax.models import build_model
from echojax.parameters import is_per_item, map_with_facts
from echojax.training.builders import make_step, resolved, target_counts, training_batches
from echojax.training.optimizer import make_optimizer
from echojax.training.step import TrainState, compile_step, create_state, over_members
from harness import Program, log


@dataclass(frozen=True)
class Flags(harness.Flags):
    """Measure the time and memory of training steps on random data."""

    model: str = "echomamba4rec"
    """Name of the model."""
    items: Positive = 100_000
    """Items of the item set, with padding."""
    events: Positive = 50
    """Events of each history."""
    batch_size: Positive = 128
    """Histories of a step, with one prediction each."""
    d_model: Positive = 64
    """D, the model width."""
    layers: Positive = 1
    """Number of layers."""
    devices: Positive = 1
    """Number of devices; on a CPU they are simulated."""
    item_shards: Positive = 1
    """Shards of the item table."""
    sequence_shards: Positive = 1
    """Shards of each history."""
    item_optimizer: Literal["adam", "rowwise"] = "adam"
    """Optimizer of the item table."""
    steps: Positive = 3
    """Steps to time, after a first one that is not counted."""


class RandomStep:
    """The compiled training step of a configuration, with a state and a batch of random histories.

    All histories have ``max_len`` events. The step runs on the first ``devices`` of this machine.
    """

    def __init__(self, config: Config, items: int, devices: int = 1):
        config = resolved(config)
        assert config.max_len is not None
        assert config.batch_size is not None
        shards = {"item_shards": config.item_shards, "sequence_shards": config.sequence_shards}
        self.mesh = mesh = make_mesh(jax.devices()[:devices], **shards)
        optimizer = make_optimizer(config, axes_of(mesh).items)
        graphdef = nnx.split(nnx.eval_shape(lambda: build_model(config, items)))[0]

        def initial() -> TrainState:
            _, state = create_state(build_model(config, items), optimizer, config.seed)
            return jax.tree.map(lambda x: x[None], state)

        shapes = jax.eval_shape(initial)
        places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), state_specs(shapes, axis=1))
        self.states = jax.jit(initial, out_shardings=places)()
        rng, rows = np.random.default_rng(0), (1, config.batch_size)
        lengths_B = np.full(config.batch_size, config.max_len, np.int32)
        batch = {
            "item_ids": rng.integers(1, items, (*rows, config.max_len), np.int32),
            "lengths": lengths_B[None],
            "targets": rng.integers(1, items, rows, np.int32),
            "weights": np.ones(rows, np.float32),
        }
        no_signals = np.zeros(mesh.size // config.sequence_shards, np.int32)
        self._batch = spread(batch, mesh, axis=1), spread(no_signals, mesh)
        counts_V = np.ones(items, np.int64)
        step = over_members(make_step(config, counts_V, lengths_B, graphdef, optimizer, mesh), mesh)
        self.program = compile_step(step, self.states, *self._batch)

    @property
    def parameters(self) -> tuple[int, int]:
        """The number of parameters, and how many of them belong to single items."""
        params = self.states.params
        per_item = map_with_facts(lambda facts, x: x.size * is_per_item(facts), params)
        return sum(x.size for x in jax.tree.leaves(params)), sum(jax.tree.leaves(per_item))

    def run(self) -> Any:
        """Start the next step."""
        self.states, self.loss, _ = self.program.run(self.states, *self._batch)
        return self.states, self.loss


class DataStep:
    """The training step of a resolved configuration on its data; ``feed`` has the batches."""

    def __init__(self, config: Config, dataset: Dataset, split: Split):
        mesh, optimizer = one_device(), make_optimizer(config)
        self.feed = training_batches(config, split, mesh)
        model = build_model(config, dataset.num_items)
        self.graphdef, self.state = create_state(model, optimizer, config.seed)
        counts_V, lengths_M = target_counts(dataset, split), self.feed.examples.lengths_M
        step = make_step(config, counts_V, lengths_M, self.graphdef, optimizer, mesh)
        self.program = compile_step(step, self.state, self.feed[0])

    def run(self, batch: Any) -> None:
        """Run a step, and wait for its end."""
        self.state, _ = jax.block_until_ready(self.program.run(self.state, batch))


def main(flags: Flags) -> None:
    """Time the steps and write the file."""
    if flags.items % flags.item_shards:
        raise UserError(
            f"--items {flags.items} is not a multiple of --item-shards {flags.item_shards}; "
            "change one of them"
        )
    harness.use_devices(flags.devices)
    names = ("model", "d_model", "layers", "batch_size", "item_shards", "sequence_shards")
    same = {name: getattr(flags, name) for name in (*names, "item_optimizer")}
    config = Config(objective="prefixes", max_len=flags.events, **same)
    step = RandomStep(config, flags.items, flags.devices)
    with harness.record_of("step", flags) as record:
        for case in record.missing([{"devices": mesh_words(step.mesh)}]):
            program, seconds, losses = Program(step.run), [], []
            for _ in range(1 + flags.steps):
                seconds.append(program.seconds())
                losses.append(float(step.loss[0]))
                log.info(f"step: {seconds[-1]:.2f} s, loss {losses[-1]:.4f}")
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            row = {
                "parameters": step.parameters[0],
                "seconds_a_step": statistics.median_high(seconds[1:]),
                "first_losses": losses,
                "peak_resident_gib": gib(peak),
                "step_memory_gib": gib(step.program.memory_bytes or 0),
            }
            record.add(case | row)
            log.info("\n".join(f"{name}: {value}" for name, value in row.items()))


def gib(size: int) -> float:
    """Return bytes as GiB, to three digits."""
    return float(f"{size / 2**30:.3g}")


if __name__ == "__main__":
    harness.run(Flags, main)
