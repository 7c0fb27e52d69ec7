"""Run by test_sharded.py: each scan named, with its gradients, in 8 shards and on one device."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from selective_scan import pallas_gpu, pallas_tpu, selective_scan, selective_scan_readout
from tests.selective_scan.oracle import JAX_NAMES, inputs

INTERPRETED = {
    "pallas_gpu": partial(pallas_gpu.scan, interpret=True),
    "pallas_tpu": partial(pallas_tpu.scan, interpret=True),
}
# How the inputs are cut; what is not named is on every device.
CUTS = {
    "rows": dict.fromkeys(("u", "delta", "B", "C", "z", "initial_state", "lengths"), P("shards")),
    "channels": dict.fromkeys(("u", "delta", "z"), P(None, None, "shards"))
    | dict.fromkeys(("A", "D", "delta_bias"), P("shards"))
    | {"initial_state": P(None, "shards")},
}


def scan(name, arrays, lengths):
    named = {JAX_NAMES[k]: v for k, v in arrays.items()}
    if name in INTERPRETED:
        whole = pallas_gpu.ScanInputs(**named, lengths_B=lengths)
        return INTERPRETED[name](whole, softplus=True, reverse=False)[0]
    if name == "readout":
        used = {k: v for k, v in named.items() if k not in ("C_BxLxN", "D_E", "z_BxLxE")}
        return selective_scan_readout(
            **used, C_BxN=named["C_BxLxN"][:, 0], stop_B=lengths, delta_softplus=True
        )[:, None]
    return selective_scan(**named, lengths_B=lengths, delta_softplus=True, implementation=name)


def over_time(name):
    """Compare stretches of time on 8 devices, read both ways, with the whole on one."""
    length, mesh = 24, jax.make_mesh((8,), ("time",), axis_types=(AxisType.Auto,))
    arrays = inputs((3, length, 4, 3), seed=1)
    del arrays["initial_state"]
    arrays["lengths"] = np.array([length, 11, 1])  # ends in the last, the fourth, the first stretch
    lengths = jnp.asarray(arrays.pop("lengths"))
    floats = {JAX_NAMES[k]: jnp.asarray(v, jnp.float32) for k, v in arrays.items()}
    in_time = {k: P(None, "time") if v.ndim == 3 else P() for k, v in floats.items()}

    def whole(reverse, floats, axis=None, stop_B=lengths):
        if name == "readout":
            used = {k: v for k, v in floats.items() if k not in ("C_BxLxN", "D_E", "z_BxLxE")}
            C_BxN = floats["A_ExN"][:3] + 1  # any numbers that all devices have
            return selective_scan_readout(
                **used,
                C_BxN=C_BxN,
                stop_B=stop_B,
                delta_softplus=True,
                reverse=reverse,
                time_axis=axis,
            )
        return selective_scan(
            **floats,
            lengths_B=stop_B,
            delta_softplus=True,
            implementation=name,
            reverse=reverse,
            time_axis=axis,
            return_last_state=True,
        )

    def stretch(reverse, floats):
        size = length // 8
        stop_B = jnp.clip(lengths - jax.lax.axis_index("time") * size, 0, size)
        return whole(reverse, floats, "time", stop_B)

    for reverse in (False, True):
        out = P() if name == "readout" else (P(None, "time"), P())
        sharded = jax.shard_map(
            partial(stretch, reverse),
            mesh=mesh,
            in_specs=(in_time,),
            out_specs=out,
            check_vma=False,
        )

        def gradients(run):
            loss = lambda floats: sum(jnp.sum(x**2) for x in jax.tree.leaves(run(floats)))  # noqa: E731
            return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(floats))

        for actual, wanted in zip(
            gradients(sharded), gradients(partial(whole, reverse)), strict=True
        ):
            np.testing.assert_allclose(actual, wanted, rtol=2e-5, atol=2e-5)


def in_parts(name):
    """Compare rows and channels on 8 devices with the whole on one."""
    arrays = inputs((8, 6, 16, 3))
    lengths = jnp.asarray(arrays.pop("lengths"))
    floats = {k: jnp.asarray(v, jnp.float32) for k, v in arrays.items()}
    mesh = jax.make_mesh((8,), ("shards",), axis_types=(AxisType.Auto,))
    run = partial(scan, name)

    def gradients(run):
        loss = lambda floats: jnp.sum(run(floats, lengths) ** 2)  # noqa: E731
        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(floats))

    expected = gradients(run)
    for cut in CUTS.values():
        sharded = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=({k: cut.get(k, P()) for k in floats}, cut.get("lengths", P())),
            out_specs=cut["u"],
            check_vma=name not in INTERPRETED,  # Pallas does not run with it
        )
        for actual, wanted in zip(gradients(sharded), expected, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    assert jax.device_count() == 8
    for name in sys.argv[1:]:
        over_time(name.removeprefix("time-")) if name.startswith("time-") else in_parts(name)
        print(name)
