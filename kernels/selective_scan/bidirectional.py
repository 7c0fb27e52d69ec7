"""Both directions of a bidirectional layer, in one launch where there is a kernel for it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan.arguments import ScanInputs
from selective_scan.choice import scan_named


def directions(x: Any, ndim: int) -> Any:
    """Return ``x`` with the direction in front: 1 for an array of ``ndim`` axes, shared by both."""
    return x[None] if x is not None and x.ndim == ndim else x


def scan_both(name: str, inputs: ScanInputs, *, softplus: bool) -> tuple[Array, Array]:
    """Return y (2, B, L, E) and the last states (2, B, E, N).

    Args:
        name: the implementation.
        inputs: arrays with the direction in front, 2, or 1 for what both share.
        softplus: whether softplus makes the time steps positive.
    """
    if name == "pallas_gpu":
        from selective_scan import pallas_gpu

        return pallas_gpu.scan_both(inputs, softplus=softplus)
    scan = scan_named(name)

    def one(direction: int) -> tuple[Array, Array]:
        own = jax.tree.map(lambda x: x[direction if len(x) == 2 else 0], inputs)
        return scan(own, softplus=softplus, reverse=bool(direction))

    outputs, states = zip(one(0), one(1), strict=True)
    return jnp.stack(outputs), jnp.stack(states)
