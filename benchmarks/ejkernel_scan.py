"""ejkernel's scan: ``python benchmarks/scans.py --module benchmarks/ejkernel_scan.py:ejkernel``.

It needs ``pip install ejkernel``, on a GPU ``'ejkernel[cuda,tilelang]'``, which has a kernel in
TileLang; elsewhere ejkernel takes its scan in plain JAX. Its releases up to 0.0.80 need jax 0.10.
"""

import jax.numpy as jnp
from ejkernel.modules.operations import state_space_v1
from jax import Array

from selective_scan import Recurrence


def ejkernel(inputs: Recurrence, *, reverse: bool) -> tuple[Array, Array]:
    """Return C . h at every position, (B, L, E), and the last state, (B, E, N)."""
    u, dt, A, B, C, state = inputs
    if reverse:
        u, dt, B, C = (jnp.flip(x, axis=1) for x in (u, dt, B, C))
    y, last, _ = state_space_v1(u, A, B, C, jnp.zeros(len(A)), dt, initial_state=state)
    return jnp.flip(y, axis=1) if reverse else y, last
