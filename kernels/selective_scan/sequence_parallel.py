"""The scan of sequences of which each device of a mapped axis has a stretch of time.

A stretch is scanned from a state of zero; its last state and the sum of its time steps are the one
carry that the devices exchange. Time S turns a state h into exp(A S) h plus what is added in it, so
each device finds the state in which its stretch begins from the carries of those before it, and
scans again from there.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan.arguments import Scan, ScanInputs, state_dtype, time_steps, visited


def check_no_state(initial_state_BxExN: Array | None) -> None:
    """Raise ``ValueError`` where there is an initial state."""
    if initial_state_BxExN is not None:
        raise ValueError("initial_state and time_axis do not go together; leave one out")


def scan_over_time(
    scan: Scan, inputs: ScanInputs, *, softplus: bool, reverse: bool, axis: str
) -> tuple[Array, Array]:
    """Return y of this device's stretch, (B, L, E), and the state behind all of them, (B, E, N).

    Args:
        scan: an implementation.
        inputs: this stretch's; no initial state.
        softplus: whether softplus makes the time steps positive.
        reverse: whether time is read from the last stretch to the first.
        axis: the mapped axis; its devices have stretches in the order of time.
    """
    _, last = scan(inputs._replace(D_E=None, z_BxLxE=None), softplus=softplus, reverse=reverse)
    t_BxLxE = time_steps(
        inputs.delta_BxLxE,
        inputs.delta_bias_E,
        softplus,
        visited(inputs.lengths_B, inputs.u_BxLxE.shape[1]),
        state_dtype(*inputs[:5]),
    )
    state = _entering(last, jnp.sum(t_BxLxE, axis=1), inputs.A_ExN, axis, reverse)
    y_BxLxE, last = scan(
        inputs._replace(initial_state_BxExN=state), softplus=softplus, reverse=reverse
    )
    final = 0 if reverse else jax.lax.axis_size(axis) - 1
    return y_BxLxE, jax.lax.psum(jnp.where(jax.lax.axis_index(axis) == final, last, 0), axis)


def time_behind(t_BxLxE: Array, axis: str, *, reverse: bool) -> Array:
    """Return the sum of the time steps of the stretches read after this device's, (B, E)."""
    passed_SxBxE = jax.lax.all_gather(jnp.sum(t_BxLxE, axis=1), axis)
    here, stretch_S = jax.lax.axis_index(axis), jnp.arange(passed_SxBxE.shape[0])
    behind_S = stretch_S < here if reverse else stretch_S > here
    return jnp.sum(jnp.where(behind_S[:, None, None], passed_SxBxE, 0), axis=0)


def _entering(
    last_BxExN: Array, passed_BxE: Array, A_ExN: Array, axis: str, reverse: bool
) -> Array:
    """Return the state in which this device's stretch begins, (B, E, N).

    ``last``: the state behind the stretch, begun at zero; ``passed``: the sum of its time steps.
    """
    carries = jax.lax.all_gather((last_BxExN, passed_BxE), axis)

    def add(state: Array, carry: Any) -> tuple[Array, Array]:
        last, passed = carry
        return jnp.exp(passed[..., None] * A_ExN) * state + last, state

    _, entering_SxBxExN = jax.lax.scan(add, jnp.zeros_like(last_BxExN), carries, reverse=reverse)
    return entering_SxBxExN[jax.lax.axis_index(axis)]
