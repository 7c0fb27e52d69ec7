"""Training steps of any size on any of this machine's devices: compiled and timed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.config import Config
from echojax.hlo import Collective, collectives
from echojax.mesh import axes_of, make_mesh
from echojax.models import build_model
from echojax.parameters import is_per_item, map_with_facts
from echojax.training.builders import make_step, resolved
from echojax.training.optimizer import make_optimizer
from echojax.training.step import CPU_OPTIONS, TrainState, create_state, over_seeds


@dataclass(frozen=True)
class Sizes:
    """What a step is made for: ``items`` V with padding, ``events`` L, ``d_model`` D."""

    model: str
    items: int
    events: int
    d_model: int


class Step(NamedTuple):
    """A compiled step.

    Attributes:
        program: of states, batch and signals.
        arguments: their shapes.
        parameters: how many numbers the model has, and how many of these in rows of items.
        rows: of the batch, over all devices.
        devices: that it runs on.
        state: makes the state before the first step.
    """

    program: jax.stages.Compiled
    arguments: Any
    parameters: tuple[int, int]
    rows: int
    devices: int
    state: Any

    def exchanged(self) -> list[Collective]:
        """Return what the devices exchange."""
        return collectives(self.program.as_text() or "", self.devices)


def compiled(sizes: Sizes, rows: int, devices: int = 1, *, item_shards: int = 1) -> Step:
    """Compile the step that ``train.py`` would run on a batch of ``rows`` prefixes.

    Args:
        sizes: of the model.
        rows: of the batch.
        devices: the first so many of this machine.
        item_shards: parts of the item table.
    """
    config = resolved(
        Config(
            dataset="ml-1m", model=sizes.model, objective="prefixes", max_len=sizes.events,
            d_model=sizes.d_model, batch_size=rows, item_shards=item_shards,
        )
    )  # fmt: skip
    mesh = make_mesh(jax.devices()[:devices], item_shards=item_shards)
    optimizer = make_optimizer(config, axes_of(mesh).items)
    graphdef = nnx.split(nnx.eval_shape(lambda: build_model(config, sizes.items)))[0]

    def initial() -> TrainState:
        _, state = create_state(build_model(config, sizes.items), optimizer, config.seed)
        return jax.tree.map(lambda x: x[None], state)

    states = jax.eval_shape(initial)
    batch = {
        "item_ids": jax.ShapeDtypeStruct((1, rows, sizes.events), jnp.int32),
        "lengths": jax.ShapeDtypeStruct((1, rows), jnp.int32),
        "targets": jax.ShapeDtypeStruct((1, rows), jnp.int32),
        "weights": jax.ShapeDtypeStruct((1, rows), jnp.float32),
    }
    arguments = (states, batch, jax.ShapeDtypeStruct((devices,), jnp.int32))
    lengths_M = np.full(rows, sizes.events)
    step = make_step(config, np.ones(sizes.items, int), lengths_M, graphdef, optimizer, mesh)
    options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
    program = over_seeds(step, mesh).lower(*arguments).compile(compiler_options=options)
    per_item = map_with_facts(lambda facts, x: x.size * is_per_item(facts), states.params)
    parameters = sum(x.size for x in jax.tree.leaves(states.params)), sum(jax.tree.leaves(per_item))
    return Step(program, arguments, parameters, rows, devices, initial)


def in_turns(steps: Sequence[Step], repeats: int) -> list[list[float]]:
    """Return the seconds of each step's runs, all steps taking turns, after two rounds."""
    runs = [_ready(step) for step in steps]
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(2 + repeats):
        for run, found in zip(runs, seconds, strict=True):
            began = time.perf_counter()
            run()
            found.append(time.perf_counter() - began)
    return [found[2:] for found in seconds]


def _ready(step: Step) -> Callable[[], None]:
    """Return what runs a step on random histories, from its first state on."""
    rng = np.random.default_rng(0)
    items = step.arguments[0].params["item_embedding"].shape[1]
    shapes = step.arguments[1]
    batch = {
        "item_ids": rng.integers(1, items, shapes["item_ids"].shape, np.int32),
        "lengths": np.full(shapes["lengths"].shape, shapes["item_ids"].shape[-1], np.int32),
        "targets": rng.integers(1, items, shapes["targets"].shape, np.int32),
        "weights": np.ones(shapes["weights"].shape, np.float32),
    }
    places = step.program.input_shardings[0]
    states = jax.jit(step.state, out_shardings=places[0])()
    rest = jax.device_put((batch, np.zeros(step.devices, np.int32)), places[1:])

    def run() -> None:
        nonlocal states
        states, loss, _ = step.program(states, *rest)
        jax.block_until_ready((states, loss))

    return run
