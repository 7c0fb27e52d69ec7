"""The public functions: arguments are checked, an implementation is chosen and run."""

from functools import partial
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan.arguments import (
    AXES,
    Scan,
    ScanInputs,
    as_arrays,
    direction_of,
    over_groups,
    state_dtype,
    time_steps,
    where_valid,
)
from selective_scan.dispatch import SCANS, results_like, run_by, scan_by, without_repeats
from selective_scan.readout import readout
from selective_scan.sequence_parallel import scan_over_time, time_after_shard


@overload
def selective_scan(
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
    initial_state: Array | None = None,
    lengths: Array | None = None,
    segment_ids: Array | None = None,
    reverse: bool = False,
    return_last_state: Literal[False] = False,
    axis_name: str | None = None,
    implementation: str = "auto",
) -> Array: ...
@overload
def selective_scan(
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
    initial_state: Array | None = None,
    lengths: Array | None = None,
    segment_ids: Array | None = None,
    reverse: bool = False,
    return_last_state: Literal[True],
    axis_name: str | None = None,
    implementation: str = "auto",
) -> tuple[Array, Array]: ...
def selective_scan(
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
    initial_state: Array | None = None,
    lengths: Array | None = None,
    segment_ids: Array | None = None,
    reverse: bool = False,
    return_last_state: bool = False,
    axis_name: str | None = None,
    implementation: str = "auto",
) -> Array | tuple[Array, Array]:
    """Run the selective scan.

    Args:
        u: input, (B, L, E).
        delta: time steps before bias and softplus, (B, L, E).
        A: decay rates, (E, N), negative.
        B: how the input enters the states, (B, L, N); or (B, L, G, N) for G groups of E / G
            neighbouring channels; or (E, N), the same at all times.
        C: how the states are read, of these shapes too.
        D: weight of the input in the output, (E,).
        z: gate, (B, L, E); the output is multiplied by silu(z).
        delta_bias: added to ``delta``, (E,).
        delta_softplus: whether softplus makes the time steps positive.
        initial_state: the state before the first visited position, (B, E, N) (0 by default).
        lengths: (B,), integers; positions at or past the length change no state and give 0.
        segment_ids: (B, L), integers; where a position's id is not that of the one visited before,
            the state starts anew from 0 (packed rows). A is then at most -1e-16.
        reverse: visit positions from the last (``lengths - 1``) to the first.
        return_last_state: return the state after the last visited position too.
        axis_name: the mapped axis whose devices each give one shard of time, in order, inside
            ``shard_map(..., check_vma=False)``; ``lengths`` are those of the shard, and the initial
            state is the same on all devices. One state a sequence and device is exchanged.
        implementation: a name from ``implementations()``; "auto" chooses.

    Returns:
        y (B, L, E) in the dtype of ``u``; with ``return_last_state`` also the state (B, E, N),
        float32 (float64 where an input is).

    Raises:
        ValueError: a shape does not fit, or the implementation is unknown or cannot run here.
        TypeError: lengths or ids are not integers, or another argument is not real floating
            point; or the implementation lacks the derivative that is asked for.
    """
    given = ScanInputs(u, delta, A, B, C, D, z, delta_bias, initial_state, lengths, segment_ids)
    inputs = ScanInputs(**as_arrays(given._asdict()))
    scan = partial(scan_by(implementation), last=return_last_state)
    if axis_name is not None:
        scan = partial(scan_over_time, scan_by(implementation), axis=axis_name)
    y, last = scan(inputs, softplus=delta_softplus, reverse=reverse)
    return (y, last) if return_last_state else y


@overload
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
    initial_state: Array | None = None,
    lengths: Array | None = None,
    segment_ids: Array | None = None,
    return_last_state: Literal[False] = False,
    axis_name: str | None = None,
    implementation: str = "auto",
) -> Array: ...
@overload
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
    initial_state: Array | None = None,
    lengths: Array | None = None,
    segment_ids: Array | None = None,
    return_last_state: Literal[True],
    axis_name: str | None = None,
    implementation: str = "auto",
) -> tuple[Array, Array]: ...
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
    initial_state: Array | None = None,
    lengths: Array | None = None,
    segment_ids: Array | None = None,
    return_last_state: bool = False,
    axis_name: str | None = None,
    implementation: str = "auto",
) -> Array | tuple[Array, Array]:
    """Run the scan from the first position to the last and from the last to the first.

    Each array has the shape that ``selective_scan`` takes or, but for ``lengths`` and
    ``segment_ids``, that shape with an axis of 2 in front: the forward direction's and the backward
    direction's. B and C of groups have that axis, and those that stay the same are shared; three
    axes are (B, L, N), and four (2, B, L, N). "pallas_gpu" runs both directions in one launch, and
    reads what they share once, unless there is an ``axis_name``.

    Returns:
        y (2, B, L, E): forward and backward, each with its own D and gate; with
        ``return_last_state`` also their states after the last visited position, (2, B, E, N).

    Raises:
        ValueError: a shape does not fit, or the implementation is unknown or cannot run here.
        TypeError: as for ``selective_scan``.
    """
    given = ScanInputs(
        u, delta, A, B, C, D, z, delta_bias, initial_state, lengths, segment_ids
    )._asdict()
    for name, x in given.items():
        if x is None:
            continue
        x = jnp.asarray(x)
        constant = name in ("B", "C") and x.ndim == 2
        if x.ndim == len(AXES[name]) or name in ("lengths", "segment_ids") or constant:
            x = x[None]  # shared by both
        elif x.shape[:1] != (2,):
            raise ValueError(f"{name} has shape {x.shape}; its first axis is not 2, the directions")
        given[name] = x
    inputs = ScanInputs(**given)
    one = ScanInputs(**as_arrays(direction_of(inputs, 0)._asdict()))

    def run(name: str, inputs: ScanInputs) -> tuple[Array, Array]:
        if name == "pallas_gpu" and inputs.B.ndim == inputs.C.ndim == 4:
            from selective_scan import gpu

            return gpu.scan_both(inputs, softplus=delta_softplus, last=return_last_state)
        return in_turn(partial(over_groups(SCANS[name]), last=return_last_state), inputs)

    def in_turn(scan: Scan, inputs: ScanInputs) -> tuple[Array, Array]:
        scan = partial(scan, softplus=delta_softplus)
        (y, last), (y_back, last_back) = (
            scan(direction_of(inputs, d), reverse=bool(d)) for d in (0, 1)
        )
        return jnp.stack([y, y_back]), jnp.stack([last, last_back])

    if axis_name is not None:
        scan = partial(scan_over_time, scan_by(implementation), axis=axis_name)
        y, last = in_turn(scan, inputs)
    else:
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), results_like(one)
        )
        size = (*one.u.shape, one.A.shape[-1])
        y, last = run_by(without_repeats(implementation, one), run, like, inputs, size)
    return (y, last) if return_last_state else y


def selective_scan_readout(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    *,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    start: Array | None = None,
    stop: Array | None = None,
    reverse: bool = False,
    initial_state: Array | None = None,
    axis_name: str | None = None,
    implementation: str = "auto",
) -> Array:
    """Return C . h after the last visited position only, (B, E), without D and gate.

    A sequence encoder needs no more of its last layer, and it is far cheaper: "tiled" computes it
    in closed form, the others run their scan. Arguments that are not listed are those of
    ``selective_scan``.

    Args:
        u: as for ``selective_scan``, like ``delta``, A and B.
        delta: time steps before bias and softplus.
        A: negative decay rates.
        B: how the input enters the states.
        C: how the state after the last visited position is read, (B, N).
        delta_bias: added to ``delta``.
        delta_softplus: whether softplus makes the time steps positive.
        start: first position of the visited range, (B,), integers (0 by default).
        stop: where the range ends, exclusive, (B,), integers (L by default).
        reverse: visit from ``stop - 1`` down to ``start``.
        initial_state: the state before the first visited position.
        axis_name: as for ``selective_scan``; start and stop are those of the shard, C and the
            result the same on all devices. A sum of time steps and one result are exchanged.
        implementation: a name from ``implementations()``; "auto" chooses.

    Raises:
        ValueError: a shape does not fit, the implementation is unknown or cannot run here, or an
            initial state is given with ``axis_name``.
        TypeError: as for ``selective_scan``; start and stop are integers too.
    """
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "delta_bias": delta_bias}
    given |= {"initial_state": initial_state, "start": start, "stop": stop}
    u, delta, A, B, C, delta_bias, state, start, stop = as_arrays(
        given, {"B": "BLN", "C": "BN"}
    ).values()
    given_dtype, dtype = u.dtype, state_dtype(u, delta, A, B, C)
    batch, length, _ = u.shape
    position_L, valid_BxL = jnp.arange(length), jnp.ones((batch, length), bool)
    if start is not None:
        valid_BxL &= position_L >= start[:, None]
    if stop is not None:
        valid_BxL &= position_L < stop[:, None]
    dt = time_steps(delta, delta_bias, delta_softplus, valid_BxL, dtype)
    u, B = where_valid(valid_BxL, (u, B))
    later_BxE = None
    if axis_name is not None:
        if state is not None:
            raise ValueError("initial_state and axis_name do not go together; leave one out")
        later_BxE = time_after_shard(dt, axis_name, reverse=reverse)
    u, A, B, C = (x.astype(dtype) for x in (u, A, B, C))

    def run(name: str, inputs: Any) -> Array:
        u, dt, A, B, C, state, valid_BxL, later_BxE = inputs
        if name == "tiled":
            state = None if state is None else state.astype(dtype)
            return readout(u, dt, A, B, C, state, valid_BxL, later_BxE, reverse=reverse)
        # The time steps are ready, and 0 where a position is not visited.
        scanned = ScanInputs(u, dt, A, B, jnp.zeros_like(B), initial_state=state)
        _, last = SCANS[name](scanned, softplus=False, reverse=reverse)
        if later_BxE is not None:
            last *= jnp.exp(later_BxE[..., None] * A)
        return jnp.einsum("ben,bn->be", last, C, precision="highest")

    like = jax.ShapeDtypeStruct((batch, u.shape[2]), dtype)
    given_to_run = (u, dt, A, B, C, state, valid_BxL, later_BxE)
    y_BxE = run_by(implementation, run, like, given_to_run)
    if axis_name is not None:
        y_BxE = jax.lax.psum(y_BxE, axis_name)
    return y_BxE.astype(given_dtype)


def selective_scan_step(
    state: Array,
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
) -> tuple[Array, Array]:
    """Take in one more event; return its output, (B, E), and the state after it, (B, E, N).

    Arguments are those of ``selective_scan`` at one position, without the axis L: B and C are
    (B, N) or (B, G, N). The state is what ``return_last_state`` gives, or zeros.
    """
    y_Bx1xE, state = selective_scan(
        u[:, None],
        delta[:, None],
        A,
        B[:, None],
        C[:, None],
        D,
        None if z is None else z[:, None],
        delta_bias,
        delta_softplus=delta_softplus,
        initial_state=state,
        return_last_state=True,
        implementation="sequential",
    )
    return y_Bx1xE[:, 0], state
