"""Sequence parallelism: each device of a mapped axis has one shard of the positions.

A shard whose time steps sum to S turns a state h into exp(A S) h plus its last state when scanned
from 0. So each device scans its shard from 0, and the devices exchange only that last state and S.
Each then computes the state in which its shard begins, and scans again from there.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan.arguments import (
    Scan,
    ScanInputs,
    segment_starts,
    state_dtype,
    time_steps,
    valid_mask,
)
from selective_scan.readout import time_after


def scan_over_time(
    scan: Scan, inputs: ScanInputs, *, softplus: bool, reverse: bool, axis: str
) -> tuple[Array, Array]:
    """Return y of this device's shard, (B, L, E), and the state after the last shard, (B, E, N).

    The shards lie on the devices of the mapped axis in the order of positions. The inputs are those
    of this device's shard, except the initial state, which is that of the whole rows and the same
    on all devices.
    """
    alone = inputs._replace(D=None, z=None, initial_state=None)
    valid_BxL, dtype = valid_mask(inputs.lengths, inputs.u.shape[1]), state_dtype(*inputs)
    last = scan(alone, softplus=softplus, reverse=reverse)[1].astype(dtype)
    dt = time_steps(inputs.delta, inputs.delta_bias, softplus, valid_BxL, dtype)
    breaks_B = anew_B = jnp.zeros(len(dt), bool)
    if inputs.segment_ids is not None:
        breaks_B, anew_B = _new_segments(inputs.segment_ids, valid_BxL, axis, reverse)
    carries = jax.lax.all_gather((last, jnp.sum(dt, axis=1), breaks_B), axis)

    def add(state_BxExN: Array, carry: Any) -> tuple[Array, Array]:
        last_BxExN, passed_BxE, breaks_B = carry
        through_BxExN = jnp.exp(passed_BxE[..., None] * inputs.A) * state_BxExN
        return jnp.where(breaks_B[:, None, None], 0, through_BxExN) + last_BxExN, state_BxExN

    start = jnp.zeros_like(last)
    if inputs.initial_state is not None:
        start += inputs.initial_state
    _, entering_SxBxExN = jax.lax.scan(add, start, carries, reverse=reverse)
    state_BxExN = jnp.where(anew_B[:, None, None], 0, entering_SxBxExN[jax.lax.axis_index(axis)])
    y, last = scan(inputs._replace(initial_state=state_BxExN), softplus=softplus, reverse=reverse)
    final = 0 if reverse else jax.lax.axis_size(axis) - 1
    return y, jax.lax.psum(jnp.where(jax.lax.axis_index(axis) == final, last, 0), axis)


def _new_segments(
    ids_BxL: Array, valid_BxL: Array | None, axis: str, reverse: bool
) -> tuple[Array, Array]:
    """Return whether any segment starts in this device's shard, and whether one starts at its edge.

    Both are booleans, (B,). The edge is the position of the shard that is scanned first; a segment
    starts there if the shard scanned before ends with another id.
    """
    valid_BxL = jnp.ones_like(ids_BxL, bool) if valid_BxL is None else valid_BxL
    ids_SxBx2, valid_SxBx2 = jax.lax.all_gather(
        (ids_BxL[:, jnp.array([0, -1])], valid_BxL[:, jnp.array([0, -1])]), axis
    )
    own, theirs = (-1, 0) if reverse else (0, -1)  # the positions at which the shards meet
    before = jax.lax.axis_index(axis) + (1 if reverse else -1)
    at = jnp.clip(before, 0, len(ids_SxBx2) - 1)
    met_B = (before == at) & valid_BxL[:, own] & valid_SxBx2[at, :, theirs]
    anew_B = met_B & (ids_BxL[:, own] != ids_SxBx2[at, :, theirs])
    return anew_B | jnp.any(segment_starts(ids_BxL, valid_BxL, reverse), axis=1), anew_B


def time_after_shard(dt_BxLxE: Array, axis: str, *, reverse: bool) -> Array:
    """Return the sum of the time steps of all shards scanned after this device's, (B, E)."""
    passed_SxBxE = jax.lax.all_gather(jnp.sum(dt_BxLxE, axis=1), axis)
    here, shard_S = jax.lax.axis_index(axis), jnp.arange(passed_SxBxE.shape[0])
    later_S = shard_S < here if reverse else shard_S > here
    return jnp.sum(jnp.where(later_S[:, None, None], passed_SxBxE, 0), axis=0)


def moved_later(x_BxLxF: Array, by: int, axis: str | None) -> Array:
    """Return x shifted ``by`` positions to later ones, (B, L, F), with zeros before the first.

    With an axis, the shift goes from shard to shard.
    """
    if not by:
        return x_BxLxF
    # Without the barriers XLA fuses the concatenation on a CPU, and its code is a scalar loop.
    x_BxLxF = jax.lax.optimization_barrier(x_BxLxF)
    batch, length, width = x_BxLxF.shape
    if axis is None:
        before = jnp.zeros((batch, min(by, length), width), x_BxLxF.dtype)
    else:
        after = [(i, i + 1) for i in range(jax.lax.axis_size(axis) - 1)]
        before = jax.lax.ppermute(x_BxLxF[:, -by:], axis, after)
    moved_BxLxF = jnp.concatenate([before, x_BxLxF[:, :-by]], axis=1)
    return jax.lax.optimization_barrier(moved_BxLxF)


def sum_before(x_BxLxF: Array, axis: str | None) -> Array:
    """Return the sum over the positions before each, across the shards of the axis, if any."""
    sums_BxLxF = time_after(x_BxLxF, True)
    if axis is None:
        return sums_BxLxF
    shards_SxBxF = jax.lax.all_gather(sums_BxLxF[:, -1] + x_BxLxF[:, -1], axis)
    before_S = jnp.arange(len(shards_SxBxF)) < jax.lax.axis_index(axis)
    earlier_SxBxF = jnp.where(before_S[:, None, None], shards_SxBxF, 0)
    return sums_BxLxF + jnp.sum(earlier_SxBxF, axis=0)[:, None]
