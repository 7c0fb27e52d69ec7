"""Run by test_sharded.py: each scan named, with its gradients, in 8 shards and on one device."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from selective_scan import (
    bidirectional_scan,
    selective_scan,
    selective_scan_prefix_readouts,
    selective_scan_readout,
)
from selective_scan.arguments import ScanInputs
from tests.selective_scan.oracle import INTERPRETED, OPTIONS, float32, for_readout, inputs

# How the inputs are cut; what is not named is on every device.
CUTS = {
    "rows": dict.fromkeys(("u", "delta", "B", "C", "z", "initial_state", "lengths"), P("shards")),
    "channels": dict.fromkeys(("u", "delta", "z"), P(None, None, "shards"))
    | dict.fromkeys(("A", "D", "delta_bias"), P("shards"))
    | {"initial_state": P(None, "shards")},
}


def scan(name, arrays):
    if name in INTERPRETED:
        return INTERPRETED[name](ScanInputs(**arrays), softplus=True, reverse=False)[0]
    if name == "readout":
        return selective_scan_readout(**for_readout(arrays), delta_softplus=True)[:, None]
    return selective_scan(**arrays, delta_softplus=True, implementation=name)


def gradients(run, arrays):
    """Return the squared sum of what a function gives, and its gradients."""
    whole = {k: x for k, x in arrays.items() if k in ("lengths", "segment_ids")}
    floats = {k: x for k, x in arrays.items() if k not in whole}

    def loss(floats):
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(run(floats | whole)))

    return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(floats))


def over_time(name):
    """Compare shards of time on 8 devices, read both ways, with the whole on one."""
    length, mesh = 24, jax.make_mesh((8,), ("time",), axis_types=(AxisType.Auto,))
    given = OPTIONS["mamba"] if name in ("prefixes", "readout") else OPTIONS["packed"]
    arrays = float32(inputs((3, length, 4, 3), {*given, "lengths"}, seed=1))
    arrays["lengths"] = jnp.array([length, 11, 1])  # ends in the last, the fourth, the first shard
    cut = ("u", "delta", "B", "C", "z", "segment_ids")
    in_time = {k: P(None, "time") if k in cut else P() for k in arrays}

    def whole(reverse, arrays, axis=None):
        options = {"delta_softplus": True, "reverse": reverse, "axis_name": axis}
        if name == "prefixes":  # a second version of each position
            stacked = {k: jnp.stack([arrays[k], 1.5 * arrays[k]]) for k in ("u", "delta", "B")}
            used = {k: arrays[k] for k in ("A", "delta_bias", "lengths")} | {"C": arrays["A"][:3]}
            options.pop("reverse")
            y = selective_scan_prefix_readouts(**used | stacked, **options)
            inside_BxL = jnp.arange(y.shape[1]) < arrays["lengths"][:, None]
            return jnp.where(inside_BxL[..., None], y, 0)
        if name == "readout":
            same = {"C": arrays["A"][:3] + 1}  # any numbers that all devices have
            return selective_scan_readout(**for_readout(arrays) | same, **options)
        options["return_last_state"] = True
        if name == "both":
            options.pop("reverse")
            return bidirectional_scan(**arrays, **options)
        options["implementation"] = name
        return selective_scan(**arrays, **options)

    def shard(reverse, arrays):
        size = length // 8
        lengths = arrays["lengths"] - jax.lax.axis_index("time") * size
        return whole(reverse, arrays | {"lengths": jnp.clip(lengths, 0, size)}, "time")

    for reverse in (False, True)[: 1 if name in ("prefixes", "both") else 2]:
        whole_y = P(None, "time")
        out = {"readout": P(), "prefixes": whole_y, "both": (P(None, None, "time"), P())}
        out = out.get(name, (whole_y, P()))
        cut = {"in_specs": (in_time,), "out_specs": out, "check_vma": False}
        sharded = jax.shard_map(partial(shard, reverse), mesh=mesh, **cut)
        check(gradients(sharded, arrays), gradients(partial(whole, reverse), arrays))


def in_parts(name):
    """Compare rows and channels on 8 devices with the whole on one."""
    arrays = float32(inputs((8, 6, 16, 3)))
    mesh = jax.make_mesh((8,), ("shards",), axis_types=(AxisType.Auto,))
    run = partial(scan, name)
    expected = gradients(run, arrays)
    for cut in CUTS.values():
        sharded = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=({k: cut.get(k, P()) for k in arrays},),
            out_specs=cut["u"],
            check_vma=name not in INTERPRETED,  # Pallas does not run with it
        )
        check(gradients(sharded, arrays), expected)


def check(actual, expected):
    for x, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(x, wanted, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    assert jax.device_count() == 8
    for name in sys.argv[1:]:
        over_time(name.removeprefix("time-")) if name.startswith("time-") else in_parts(name)
        print(name)
