"""Scans on meshes: those inside shard_map in a process of their own, with 8 simulated devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from selective_scan import (
    bidirectional_scan,
    selective_scan,
    selective_scan_prefix_readouts,
    selective_scan_readout,
)
from tests.selective_scan.oracle import OPTIONS, float32, for_readout, inputs

ROOT = Path(__file__).parents[2]
FEW = ["tiled", "time-prefixes"]
OTHERS = [
    "associative", "sequential", "chunked", "reference", "pallas_gpu", "pallas_tpu", "readout",
    "time-sequential", "time-tiled", "time-readout", "time-both",
]  # fmt: skip


@pytest.mark.parametrize("names", [FEW, pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_shard_map_equals_one_device(names):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, "-m", "tests.selective_scan.on_eight_devices", *names],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == names


def both_and_states(arrays):
    return bidirectional_scan(**arrays, delta_softplus=True, return_last_state=True)


def readout(arrays):
    return selective_scan_readout(**for_readout(arrays), delta_softplus=True)


def prefixes(arrays):
    used = {k: arrays[k] for k in ("u", "delta", "A", "B", "lengths")}
    return selective_scan_prefix_readouts(**used, C=arrays["C"][:, 0], delta_softplus=True)


def one_direction(arrays):
    return selective_scan(**arrays, delta_softplus=True)


@pytest.mark.parametrize("run", [both_and_states, readout, prefixes, one_direction])
def test_a_mesh_of_explicit_axes_changes_nothing(run):
    """Neither results nor gradients, also under ``vmap``; results are sharded as u is."""
    arrays = float32(inputs((2, 6, 3, 4), OPTIONS["packed"]))
    arrays = {k: np.stack([x, x[::-1]]) for k, x in arrays.items()}
    whole = {k: arrays.pop(k) for k in ("lengths", "segment_ids")}

    def loss(floats, whole):
        results = run(floats | whole)
        return sum(map(jnp.sum, jax.tree.leaves(results))), results

    function = jax.jit(jax.vmap(jax.grad(loss, has_aux=True)))
    mesh = jax.make_mesh((1, 1), ("rows", "channels"), axis_types=(AxisType.Explicit,) * 2)
    specs = dict.fromkeys(("u", "delta", "z"), P(None, "rows", None, "channels"))
    specs |= {"A": P(None, "channels"), "B": P(None, "rows"), "lengths": P(None, "rows")}

    def placed(arrays):
        return {
            k: jax.device_put(x, jax.NamedSharding(mesh, specs.get(k, P())))
            for k, x in arrays.items()
        }

    with jax.set_mesh(mesh):
        actual = function(placed(arrays), placed(whole))
    jax.tree.map(np.testing.assert_array_equal, actual, function(arrays, whole))
    y = jax.tree.leaves(actual[1])[0]
    assert {"rows", "channels"} <= set(jax.typeof(y).sharding.spec)
