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


def main(names):
    arrays = inputs((8, 6, 16, 3))
    lengths = jnp.asarray(arrays.pop("lengths"))
    floats = {k: jnp.asarray(v, jnp.float32) for k, v in arrays.items()}
    mesh = jax.make_mesh((8,), ("shards",), axis_types=(AxisType.Auto,))
    for name in names:
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
        print(name)


if __name__ == "__main__":
    assert jax.device_count() == 8
    main(sys.argv[1:])
