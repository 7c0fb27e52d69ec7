"""The public functions: they check their arguments, choose an implementation and run it."""

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
    state_dtype,
    time_steps,
    where_valid,
    with_automatic_axes,
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
@with_automatic_axes("BLE", "BEN")
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
    """Run the selective scan of Mamba (Gu and Dao, 2023, arXiv:2312.00752, algorithm 2).

    It computes h_l = exp(dt_l A) h_{l-1} + dt_l B_l u_l and y_l = C_l . h_l + D u_l, with
    dt = softplus(delta + delta_bias), and multiplies y by silu(z) if there is a gate. The arrays
    are of any real floating-point dtypes of 16 bits or more; time steps, decays and states are
    computed in float32, or in float64 if an input has that dtype.

    Args:
        u: input, (B, L, E).
        delta: time steps before bias and softplus, (B, L, E).
        A: decay rates, (E, N), negative.
        B: input matrix, which projects the input into the state, (B, L, N); or (B, L, G, N) for G
            groups of E / G neighbouring channels; or (E, N), the same at all positions.
        C: output matrix, which projects the state to the output, of the same shapes as B may have.
        D: skip connection, the weight of the input in the output, (E,).
        z: gate, (B, L, E); the output is multiplied by silu(z).
        delta_bias: added to ``delta``, (E,).
        delta_softplus: whether to apply softplus, which makes the time steps positive.
        initial_state: the state before the first position that is scanned, (B, E, N); zeros by
            default.
        lengths: valid positions of each row, (B,), integers; all L by default. Positions at or
            past the length leave the state unchanged, and their output is 0.
        segment_ids: (B, L), integers, for packed rows. Where the id differs from that of the
            position scanned before, the state starts again from 0. A must then be at most -1e-16.
        reverse: scan from the last valid position (``lengths - 1``) to the first.
        return_last_state: also return the state after the last position that is scanned.
        axis_name: name of the mapped axis for sequence parallelism, inside
            ``shard_map(..., check_vma=False)``. Each device of that axis has one shard of the
            positions, in order; ``lengths`` count those of the shard, and the initial state is the
            same on all devices. Each device sends one state per sequence.
        implementation: a name from ``implementations()``, or "auto", which chooses one.

    Returns:
        y (B, L, E) in the dtype of ``u``; with ``return_last_state`` also the state (B, E, N), in
        float32, or in float64 if an input has that dtype.

    Raises:
        ValueError: a shape does not fit, or the implementation is unknown or cannot run here.
        TypeError: lengths or ids are not integers, another argument is not real floating point, or
            the implementation lacks the derivative that is taken.
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
@with_automatic_axes("2BLE", "2BEN")
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
    """Run the scan in both directions: from the first position to the last, and back.

    The arguments are those of ``selective_scan`` without ``reverse``. An array of the shape given
    there is shared by both directions. Every array except ``lengths`` and ``segment_ids`` may have
    a leading axis of size 2 instead, for the forward and the backward direction. Grouped B and C
    must have it, (2, B, L, G, N), since four axes are read as (2, B, L, N); B and C that are the
    same at all positions, (E, N), cannot have it. "pallas_gpu" runs both directions in one launch,
    in which it reads shared arrays once, unless there is an ``axis_name``.

    Returns:
        y (2, B, L, E), forward and backward, each with its own D and gate; with
        ``return_last_state`` also the state of each direction after the last position that it
        scans, (2, B, E, N). Dtypes are as for ``selective_scan``.

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

            if inputs.A.shape[-1] <= gpu.MOST_STATES:
                return gpu.scan_both(inputs, softplus=delta_softplus, last=return_last_state)
        return in_turn(partial(SCANS[name].scan, last=return_last_state), inputs)

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


@with_automatic_axes("BE")
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
    """Return C . h after the last position that is scanned, without D and gate.

    This is all that a sequence encoder needs of its last layer, and far cheaper than the whole
    output: "tiled" computes it in closed form; the other implementations run their scan.

    Args:
        u: input, (B, L, E).
        delta: time steps before bias and softplus, (B, L, E).
        A: decay rates, (E, N), negative.
        B: input matrix, (B, L, N).
        C: output matrix after the last position that is scanned, (B, N).
        delta_bias: added to ``delta``, (E,).
        delta_softplus: whether to apply softplus, which makes the time steps positive.
        start: first position of the range that is scanned, (B,), integers; 0 by default.
        stop: end of that range, exclusive, (B,), integers; L by default.
        reverse: scan from ``stop - 1`` down to ``start``.
        initial_state: the state before the first position that is scanned, (B, E, N); zeros by
            default.
        axis_name: as for ``selective_scan``; start and stop are positions in the shard, and C and
            the result are the same on all devices. Each device sends the sums of its time steps,
            and the results are added.
        implementation: a name from ``implementations()``, or "auto", which chooses one.

    Returns:
        C . h, (B, E), in the dtype of ``u``.

    Raises:
        ValueError: a shape does not fit, the implementation is unknown or cannot run here, or an
            initial state is given with ``axis_name``.
        TypeError: as for ``selective_scan``; start and stop must be integers, too.
    """
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "delta_bias": delta_bias}
    given |= {"initial_state": initial_state, "start": start, "stop": stop}
    u, delta, A, B, C, delta_bias, state, start, stop = as_arrays(
        given, {"B": "BLN", "C": "BN"}
    ).values()
    given_dtype, dtype = u.dtype, state_dtype(u, delta, A, B, C, delta_bias, state)
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
            raise ValueError("initial_state and axis_name cannot be combined; omit one of them")
        later_BxE = time_after_shard(dt, axis_name, reverse=reverse)
    u, A, B, C = (x.astype(dtype) for x in (u, A, B, C))

    def run(name: str, inputs: Any) -> Array:
        u, dt, A, B, C, state, valid_BxL, later_BxE = inputs
        if name == "tiled":
            state = None if state is None else state.astype(dtype)
            return readout(u, dt, A, B, C, state, valid_BxL, later_BxE, reverse=reverse)
        # Bias and softplus are applied already, and the time step of an invalid position is 0.
        scanned = ScanInputs(u, dt, A, B, jnp.zeros_like(B), initial_state=state)
        _, last = SCANS[name].scan(scanned, softplus=False, reverse=reverse)
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
    """Advance the scan by one position, as in decoding a token at a time.

    Args:
        state: the state before the position, (B, E, N), as ``return_last_state`` gives it; zeros
            before the first position.
        u: the arguments from here on are those of ``selective_scan`` without the axis L: (B, E).
        delta: time steps before bias and softplus, (B, E).
        A: decay rates, (E, N), negative.
        B: input matrix, (B, N) or (B, G, N).
        C: output matrix, (B, N) or (B, G, N).
        D: skip connection, (E,).
        z: gate, (B, E).
        delta_bias: added to ``delta``, (E,).
        delta_softplus: whether to apply softplus.

    Returns:
        The output (B, E), in the dtype of ``u``, and the state after the position, (B, E, N), in
        float32, or in float64 if an input has that dtype.

    Raises:
        ValueError: a shape does not fit.
        TypeError: an argument is not real floating point.
    """
    u, delta, B, C = map(jnp.asarray, (u, delta, B, C))
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z}
    given |= {"delta_bias": delta_bias, "state": state}
    axes = {name: "BGN" if x.ndim == 3 else "BN" for name, x in (("B", B), ("C", C))}
    as_arrays(given, dict.fromkeys(("u", "delta", "z"), "BE") | axes)
    y_Bx1xE, state = selective_scan(
        u[:, None],
        delta[:, None],
        A,
        B[:, None],
        C[:, None],
        D,
        None if z is None else jnp.asarray(z)[:, None],
        delta_bias,
        delta_softplus=delta_softplus,
        initial_state=state,
        return_last_state=True,
        implementation="sequential",
    )
    return y_Bx1xE[:, 0], state
