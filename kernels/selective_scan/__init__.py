"""The selective scan of Mamba in JAX: one function, several implementations.

    t = softplus(delta + bias)
    h_l = exp(t_l A) h_{l-1} + t_l B_l u_l
    y_l = C_l . h_l + D u_l,  times silu(z_l) if given

Dimension letters: B batch, L length, E channels, N states a channel.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan.arguments import (
    ScanInputs,
    check_arrays,
    is_empty,
    state_dtype,
    time_steps,
    where_visited,
)
from selective_scan.bidirectional import directions, scan_both
from selective_scan.choice import chosen, implementations, scan_named
from selective_scan.readout import readout
from selective_scan.reference import selective_scan_gradients, selective_scan_reference
from selective_scan.sequence_parallel import check_no_state, scan_over_time, time_behind

__all__ = [
    "bidirectional_scan",
    "implementations",
    "selective_scan",
    "selective_scan_gradients",
    "selective_scan_readout",
    "selective_scan_reference",
    "selective_scan_step",
]


def selective_scan(
    u_BxLxE: Array,
    delta_BxLxE: Array,
    A_ExN: Array,
    B_BxLxN: Array,
    C_BxLxN: Array,
    D_E: Array | None = None,
    z_BxLxE: Array | None = None,
    delta_bias_E: Array | None = None,
    *,
    delta_softplus: bool = False,
    initial_state_BxExN: Array | None = None,
    lengths_B: Array | None = None,
    reverse: bool = False,
    return_last_state: bool = False,
    time_axis: str | None = None,
    implementation: str = "auto",
    chunk: int | None = None,
) -> Array | tuple[Array, Array]:
    """Run the selective scan.

    Args:
        u_BxLxE: input.
        delta_BxLxE: time steps before bias and softplus.
        A_ExN: negative decay rates.
        B_BxLxN: how the input enters the states.
        C_BxLxN: how the states are read.
        D_E: weight of the input in the output.
        z_BxLxE: gate; the output is multiplied by silu(z).
        delta_bias_E: added to ``delta``.
        delta_softplus: whether softplus makes the time steps positive.
        initial_state_BxExN: the state before the first visited position (0 by default).
        lengths_B: positions at or past the length change no state and give 0.
        reverse: visit positions from the last (``lengths - 1``) to the first.
        return_last_state: return the state behind the last visited position too.
        time_axis: the mapped axis whose devices each give one stretch of time, in order, inside
            ``shard_map(..., check_vma=False)``; ``lengths`` are those of the stretch, and there is
            no initial state. One state a sequence and device is exchanged.
        implementation: a name from ``implementations()``; "auto" chooses.
        chunk: positions a chunk of implementation "chunked" (64).

    Returns:
        y (B, L, E) in the dtype of ``u``; with ``return_last_state`` also the state (B, E, N),
        float32 (float64 where an input is).

    Raises:
        ValueError: a shape does not fit, the implementation is unknown or cannot run here,
            ``chunk`` is not for it, or an initial state is given with ``time_axis``.
        TypeError: lengths are not integers, or another argument is not real floating point; or
            the implementation lacks the derivative that is asked for.
    """
    check_arrays(
        u_BxLxE,
        delta_BxLxE,
        A_ExN,
        B_BxLxN,
        C_BxLxN,
        D=(D_E, ("E",)),
        z=(z_BxLxE, ("B", "L", "E")),
        delta_bias=(delta_bias_E, ("E",)),
        initial_state=(initial_state_BxExN, ("B", "E", "N")),
        lengths=(lengths_B, ("B",)),
    )
    inputs = ScanInputs(
        u_BxLxE,
        delta_BxLxE,
        A_ExN,
        B_BxLxN,
        C_BxLxN,
        D_E,
        z_BxLxE,
        delta_bias_E,
        initial_state_BxExN,
        lengths_B,
    )
    scan = scan_named(chosen(implementation, *inputs), chunk)
    if is_empty(u_BxLxE, A_ExN):
        scan = scan_named("sequential")
    if time_axis is not None:
        check_no_state(initial_state_BxExN)
        scan = partial(scan_over_time, scan, axis=time_axis)
    y_BxLxE, last = scan(inputs, softplus=delta_softplus, reverse=reverse)
    return (y_BxLxE, last) if return_last_state else y_BxLxE


def bidirectional_scan(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    delta_bias: Array | None = None,
    *,
    delta_softplus: bool = False,
    lengths_B: Array | None = None,
    implementation: str = "auto",
) -> Array:
    """Run the scan from the first position to the last and from the last to the first.

    Each argument but ``lengths_B`` has the shape that ``selective_scan`` takes, or that shape with
    an axis of 2 in front: the forward direction's and the backward direction's. "pallas_gpu" runs
    both directions in one launch, and reads what they share once.

    Returns:
        y (2, B, L, E): forward and backward, each with its own D and gate.

    Raises:
        ValueError: a shape does not fit, or the implementation is unknown or cannot run here.
        TypeError: as for ``selective_scan``.
    """
    u, delta, B, C = (directions(x, 3) for x in (u, delta, B, C))
    z, A = directions(z, 3), directions(A, 2)
    D, delta_bias, lengths = (directions(x, 1) for x in (D, delta_bias, lengths_B))
    inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias, None, lengths)
    for name, x in inputs._asdict().items():
        if x is not None and len(x) > 2:
            raise ValueError(f"{name} has shape {x.shape}; its first axis is not 2, the directions")
    first = jax.tree.map(lambda x: x[0], inputs)
    check_arrays(
        *first[:5],
        D=(first.D_E, ("E",)),
        z=(first.z_BxLxE, ("B", "L", "E")),
        delta_bias=(first.delta_bias_E, ("E",)),
        lengths=(lengths_B, ("B",)),
    )
    name = chosen(implementation, *inputs)
    if is_empty(u, A):
        name = "sequential"
    return scan_both(name, inputs, softplus=delta_softplus)[0]


def selective_scan_readout(
    u_BxLxE: Array,
    delta_BxLxE: Array,
    A_ExN: Array,
    B_BxLxN: Array,
    C_BxN: Array,
    *,
    delta_bias_E: Array | None = None,
    delta_softplus: bool = False,
    start_B: Array | None = None,
    stop_B: Array | None = None,
    reverse: bool = False,
    initial_state_BxExN: Array | None = None,
    time_axis: str | None = None,
    implementation: str = "auto",
) -> Array:
    """Return C . h behind the last visited position alone, (B, E), without D and gate.

    A sequence encoder needs no more of its last layer, and it is far cheaper: "fused" computes it
    in closed form, the others run their scan.

    Args:
        u_BxLxE: as for ``selective_scan``, like ``delta``, A, B, bias and softplus.
        delta_BxLxE: time steps before bias and softplus.
        A_ExN: negative decay rates.
        B_BxLxN: how the input enters the states.
        C_BxN: how the state behind the last visited position is read.
        delta_bias_E: added to ``delta``.
        delta_softplus: whether softplus makes the time steps positive.
        start_B: first position of the visited range (0 by default).
        stop_B: where the range ends, exclusive (L by default).
        reverse: visit from ``stop - 1`` down to ``start``.
        initial_state_BxExN: the state before the first visited position.
        time_axis: as for ``selective_scan``; start and stop are those of the stretch, C and the
            result the same on all devices. A sum of time steps and one result are exchanged.
        implementation: a name from ``implementations()``; "auto" chooses.

    Raises:
        ValueError: a shape does not fit, the implementation is unknown or cannot run here, or an
            initial state is given with ``time_axis``.
        TypeError: as for ``selective_scan``; start and stop are integers too.
    """
    check_arrays(
        u_BxLxE,
        delta_BxLxE,
        A_ExN,
        B_BxLxN,
        C_BxN,
        C_shape=("B", "N"),
        delta_bias=(delta_bias_E, ("E",)),
        start=(start_B, ("B",)),
        stop=(stop_B, ("B",)),
        initial_state=(initial_state_BxExN, ("B", "E", "N")),
    )
    name = chosen(
        implementation,
        u_BxLxE,
        delta_BxLxE,
        A_ExN,
        B_BxLxN,
        C_BxN,
        delta_bias_E,
        initial_state_BxExN,
    )
    if is_empty(u_BxLxE, A_ExN):
        name = "sequential"
    dtype = state_dtype(u_BxLxE, delta_BxLxE, A_ExN, B_BxLxN, C_BxN)
    batch, length, _ = u_BxLxE.shape
    position_L, visited_BxL = jnp.arange(length), jnp.ones((batch, length), bool)
    if start_B is not None:
        visited_BxL &= position_L >= start_B[:, None]
    if stop_B is not None:
        visited_BxL &= position_L < stop_B[:, None]
    t_BxLxE = time_steps(delta_BxLxE, delta_bias_E, delta_softplus, visited_BxL, dtype)
    u_BxLxE, B_BxLxN = where_visited(visited_BxL, (u_BxLxE, B_BxLxN))
    behind_BxE = None
    if time_axis is not None:
        check_no_state(initial_state_BxExN)
        behind_BxE = time_behind(t_BxLxE, time_axis, reverse=reverse)
    u, A, B, C = (x.astype(dtype) for x in (u_BxLxE, A_ExN, B_BxLxN, C_BxN))
    if name == "fused":
        state = None if initial_state_BxExN is None else initial_state_BxExN.astype(dtype)
        y_BxE = readout(u, t_BxLxE, A, B, C, state, visited_BxL, behind_BxE, reverse=reverse)
    else:
        # The time steps are ready, and 0 where a position is not visited.
        inputs = ScanInputs(
            u, t_BxLxE, A, B, jnp.zeros_like(B), initial_state_BxExN=initial_state_BxExN
        )
        _, last = scan_named(name)(inputs, softplus=False, reverse=reverse)
        if behind_BxE is not None:
            last *= jnp.exp(behind_BxE[..., None] * A)
        y_BxE = jnp.einsum("ben,bn->be", last, C, precision="highest")
    if time_axis is not None:
        y_BxE = jax.lax.psum(y_BxE, time_axis)
    return y_BxE.astype(u_BxLxE.dtype)


def selective_scan_step(
    state_BxExN: Array,
    u_BxE: Array,
    delta_BxE: Array,
    A_ExN: Array,
    B_BxN: Array,
    C_BxN: Array,
    D_E: Array | None = None,
    z_BxE: Array | None = None,
    delta_bias_E: Array | None = None,
    *,
    delta_softplus: bool = False,
) -> tuple[Array, Array]:
    """Take in one more event; return its output, (B, E), and the state behind it, (B, E, N).

    Arguments are those of ``selective_scan`` at one position; the state is what
    ``return_last_state`` gives, or zeros.
    """
    y_Bx1xE, state = selective_scan(
        u_BxE[:, None],
        delta_BxE[:, None],
        A_ExN,
        B_BxN[:, None],
        C_BxN[:, None],
        D_E,
        None if z_BxE is None else z_BxE[:, None],
        delta_bias_E,
        delta_softplus=delta_softplus,
        initial_state_BxExN=state_BxExN,
        return_last_state=True,
        implementation="sequential",
    )
    return y_Bx1xE[:, 0], state
