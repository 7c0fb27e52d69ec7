"""Measure a training step of any size: python experiments/measure_step.py --items 10000000.

The data are random and the state is made in place on the devices, as large as it is: what a
catalogue of millions or a history of 100,000 events costs, in time and memory. On a CPU --devices
simulates several devices, which share its cores and its memory.
"""

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from echojax.command_line import parse
from echojax.errors import UserError, exit_on_user_error
from echojax.files import write_json


@dataclass(frozen=True)
class Flags:
    """Time training steps on random data; report memory; write JSON."""

    output: Path
    """Where the JSON goes."""
    model: str = "echomamba4rec"
    """Name of the model."""
    items: int = 100_000
    """Items of the catalogue, with padding."""
    events: int = 50
    """Events of each history."""
    batch_size: int = 128
    """Histories a step; one prediction each."""
    d_model: int = 64
    """D, the model width."""
    layers: int = 1
    """How many layers."""
    devices: int = 1
    """Devices, simulated on a CPU."""
    item_shards: int = 1
    """Parts of the item table."""
    sequence_shards: int = 1
    """Parts of each history."""
    item_optimizer: Literal["adam", "rowwise"] = "adam"
    """State of the item table's optimiser."""
    steps: int = 3
    """Steps to time, behind one that is not counted."""


def main() -> None:
    """Run the command."""
    with exit_on_user_error():
        flags = parse(Flags, args=sys.argv[1:])
        if flags.items % flags.item_shards:
            raise UserError(
                f"--items {flags.items} is not a multiple of --item-shards {flags.item_shards}; "
                "change one of them"
            )
        if flags.devices > 1:  # read when jax is imported
            simulated = f"--xla_force_host_platform_device_count={flags.devices}"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {simulated}"
        found = measure(flags)
        write_json(flags.output, found)
        print(json.dumps(found, indent=2))


def measure(flags: Flags) -> dict[str, Any]:
    """Return times and memory of the step that train.py would run at this size."""
    # Imported behind the choice of devices.
    import jax
    import numpy as np
    from flax import nnx
    from jax.sharding import NamedSharding

    from echojax.config import Config
    from echojax.machine import describe as machine
    from echojax.mesh import axes_of, describe, make_mesh, spread, state_specs
    from echojax.models import build_model
    from echojax.training.builders import make_step, resolved
    from echojax.training.optimizer import make_optimizer
    from echojax.training.step import TrainState, compile_step, create_state, over_seeds

    config = resolved(
        Config(
            model=flags.model, objective="prefixes", d_model=flags.d_model, layers=flags.layers,
            max_len=flags.events, batch_size=flags.batch_size, item_shards=flags.item_shards,
            sequence_shards=flags.sequence_shards, item_optimizer=flags.item_optimizer,
        )
    )  # fmt: skip
    mesh = make_mesh(item_shards=flags.item_shards, sequence_shards=flags.sequence_shards)
    optimizer = make_optimizer(config, axes_of(mesh).items)

    def initial() -> TrainState:
        _, state = create_state(build_model(config, flags.items), optimizer, config.seed)
        return jax.tree.map(lambda x: x[None], state)

    graphdef = nnx.split(nnx.eval_shape(lambda: build_model(config, flags.items)))[0]
    specs = state_specs(jax.eval_shape(initial), axis=1)
    states = jax.jit(
        initial, out_shardings=jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    )()
    rng, lengths_B = np.random.default_rng(0), np.full(flags.batch_size, flags.events, np.int32)
    shape = (1, flags.batch_size)
    batch = spread(
        {
            "item_ids": rng.integers(1, flags.items, (*shape, flags.events), np.int32),
            "lengths": lengths_B[None],
            "targets": rng.integers(1, flags.items, shape, np.int32),
            "weights": np.ones(shape, np.float32),
        },
        mesh,
        axis=1,
    )
    asked_D = spread(np.zeros(mesh.size // flags.sequence_shards, np.int32), mesh)
    counts_V = np.ones(flags.items, np.int64)
    mapped = make_step(config, counts_V, lengths_B, graphdef, optimizer, mesh)
    step = compile_step(over_seeds(mapped, mesh), states, batch, asked_D)
    seconds, losses = [], []
    for _ in range(1 + flags.steps):
        began = time.perf_counter()
        states, loss, _ = step.run(states, batch, asked_D)
        losses.append(float(loss[0]))
        seconds.append(time.perf_counter() - began)
        print(f"step: {seconds[-1]:.2f} s, loss {losses[-1]:.4f}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "command": f"python experiments/measure_step.py {_given(flags)}",
        "date": date.today().isoformat(),
        "machine": machine([]),
        "devices": describe(mesh),
        "flags": asdict(flags) | {"output": flags.output.name},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(states.params)),
        "seconds_a_step": sorted(seconds[1:])[len(seconds[1:]) // 2],
        "first_losses": losses,
        "peak_resident_gib": gib(peak),
        "step_memory_gib": gib(step.memory_bytes or 0),
    }


def gib(size: int) -> float:
    """Return bytes as GiB, to three digits."""
    return float(f"{size / 2**30:.3g}")


def _given(flags: Flags) -> str:
    """Return the flags that are not the defaults, without machine paths."""
    default = asdict(Flags(flags.output))
    given = {name: value for name, value in asdict(flags).items() if value != default[name]}
    words = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    return " ".join([f"--output {flags.output.name}", *words])


if __name__ == "__main__":
    main()
