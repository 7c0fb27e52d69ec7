"""The backward kernel for TPUs: it recomputes a chunk's states in VMEM, then goes back over it."""

from math import log

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from selective_scan.arguments import ScanInputs
from selective_scan.tpu.blocks import (
    Chunk,
    Launch,
    Options,
    Refs,
    call,
    column,
    launch_for,
    operands,
)


def run_backward(
    inputs: ScanInputs, starts: Array, outer: tuple[Array, Array], options: Options
) -> ScanInputs:
    """Return the gradient of every given input, in its dtype.

    Args:
        inputs: the scan's inputs.
        starts: the state before each chunk, (B, chunks, N, E), as ``run_forward`` returns it.
        outer: the gradients of y, (B, L, E), and of the last state, (B, E, N).
        options: those of the scan.
    """
    dy_BxLxE, dlast_BxExN = outer
    launch = launch_for(inputs, options, backward=True)
    arrays = operands(inputs, options)
    initial = arrays.pop("initial", None)
    arrays |= {"starts": starts, "dy": dy_BxLxE, "dlast": dlast_BxExN.swapaxes(1, 2)}
    batch, blocks, _ = launch.grid
    state, row = (batch, launch.states, launch.channels), (batch, 1, launch.channels)
    in_blocks = (blocks, batch, launch.states, launch.length)
    results = {
        "du": inputs.u,
        "ddelta": inputs.delta,
        "dz": inputs.z,
        "dA": jax.ShapeDtypeStruct(state, jnp.float32),
        "dB": jax.ShapeDtypeStruct(in_blocks, jnp.float32),
        "dC": jax.ShapeDtypeStruct(in_blocks, jnp.float32),
        "dD": None if inputs.D is None else jax.ShapeDtypeStruct(row, jnp.float32),
        "dbias": None if inputs.delta_bias is None else jax.ShapeDtypeStruct(row, jnp.float32),
        "dinitial": initial,
    }
    shapes = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in results.items() if x is not None
    }
    wide = (launch.chunk, launch.block)
    scratch = {
        "dstate": (launch.states, launch.block),
        "before": (launch.chunk, launch.states, launch.block),
        "t32": wide,
        "x32": wide,
        "dread": wide,
        "read": wide,
        "into": wide,
        "rate": wide,
    }
    return _summed(inputs, call(_kernel, launch, arrays, shapes, scratch))


def _summed(inputs: ScanInputs, grads: dict[str, Array]) -> ScanInputs:
    """Sum the gradients over rows and blocks of channels, in a fixed order."""
    return ScanInputs(
        u=grads["du"],
        delta=grads["ddelta"],
        A=jnp.sum(grads["dA"], axis=0).T.astype(inputs.A.dtype),
        B=jnp.sum(grads["dB"], axis=0).swapaxes(1, 2).astype(inputs.B.dtype),
        C=jnp.sum(grads["dC"], axis=0).swapaxes(1, 2).astype(inputs.C.dtype),
        D=None if inputs.D is None else jnp.sum(grads["dD"], (0, 1)).astype(inputs.D.dtype),
        z=grads.get("dz"),
        delta_bias=None
        if inputs.delta_bias is None
        else jnp.sum(grads["dbias"], (0, 1)).astype(inputs.delta_bias.dtype),
        initial_state=None
        if inputs.initial_state is None
        else grads["dinitial"].swapaxes(1, 2).astype(inputs.initial_state.dtype),
    )


def _kernel(launch: Launch, refs: Refs) -> None:
    step = pl.program_id(2)
    chunk = Chunk(launch, refs)

    @pl.when(step == 0)
    def _() -> None:
        refs["dstate"][...] = chunk.inside("dlast")
        for name in ("dA", "dD", "dbias"):
            if name in refs:
                refs[name][...] = jnp.zeros_like(refs[name])

    @pl.when((step == 0) | (launch.window_at(step) != launch.window_at(step - 1)))
    def _() -> None:
        for name in ("dB", "dC"):
            refs[name][...] = jnp.zeros_like(refs[name])

    u_KxE, dread_KxE = chunk.channels("u"), chunk.channels("dy")
    raw_KxE, t_KxE = chunk.time_steps()
    if "z" in refs:
        dread_KxE *= jax.nn.silu(chunk.channels("z"))
    refs["t32"][...], refs["x32"][...], refs["dread"][...] = t_KxE, t_KxE * u_KxE, dread_KxE
    _recompute(launch, refs, chunk)
    _walk_back(launch, refs, chunk)
    _write_gradients(launch, refs, chunk, u_KxE, raw_KxE, t_KxE, dread_KxE)

    if "dinitial" in refs:

        @pl.when(step == launch.grid[2] - 1)
        def _() -> None:
            refs["dinitial"][...] = refs["dstate"][...]


def _recompute(launch: Launch, refs: Refs, chunk: Chunk) -> None:
    """Compute the states before every valid position and, if there is a gate, C . h."""
    A_NxE, B_NxW, C_NxW = chunk.inside("A"), chunk.states("B"), chunk.states("C")

    def visit(position: Array, h_NxE: Array) -> Array:
        at, lane_1xW = pl.ds(position, 1), chunk.lane_of(position)
        refs["before"][position] = h_NxE
        enter_NxE = refs["x32"][at] * column(B_NxW, lane_1xW)
        h_NxE = jnp.exp2(chunk.decay_time(position) * A_NxE) * h_NxE + enter_NxE
        if "z" in refs:
            read_NxE = h_NxE * column(C_NxW, lane_1xW)
            refs["read"][at] = jnp.sum(read_NxE, axis=0, keepdims=True)
        return h_NxE

    chunk.walk(visit, chunk.inside("starts"), descending=launch.options.reverse)


def _walk_back(launch: Launch, refs: Refs, chunk: Chunk) -> None:
    """Carry the gradient of the state in reverse scan order, and collect all other gradients."""
    A_NxE, B_NxW, C_NxW = chunk.inside("A"), chunk.states("B"), chunk.states("C")

    def visit(position: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        dh_NxE, dA_NxE, dB_NxW, dC_NxW = carry
        at, lane_1xW = pl.ds(position, 1), chunk.lane_of(position)
        t_1xE, x_1xE, dread_1xE = chunk.decay_time(position), refs["x32"][at], refs["dread"][at]
        B_Nx1 = column(B_NxW, lane_1xW)
        decay_NxE = jnp.exp2(t_1xE * A_NxE)
        stays_NxE = decay_NxE * refs["before"][position]
        dC_Nx1 = jnp.sum(dread_1xE * (stays_NxE + x_1xE * B_Nx1), axis=1, keepdims=True)
        dh_NxE += dread_1xE * column(C_NxW, lane_1xW)
        dB_Nx1 = jnp.sum(dh_NxE * x_1xE, axis=1, keepdims=True)
        refs["into"][at] = jnp.sum(dh_NxE * B_Nx1, axis=0, keepdims=True)
        through_NxE = dh_NxE * stays_NxE
        refs["rate"][at] = jnp.sum(through_NxE * A_NxE, axis=0, keepdims=True)
        return (
            dh_NxE * decay_NxE,
            dA_NxE + through_NxE * t_1xE,
            jnp.where(lane_1xW, dB_Nx1, dB_NxW),
            jnp.where(lane_1xW, dC_Nx1, dC_NxW),
        )

    names = ("dstate", "dA", "dB", "dC")
    carry = tuple(refs[name][...] for name in names)
    carry = chunk.walk(visit, carry, descending=not launch.options.reverse)
    for name, x in zip(names, carry, strict=True):
        refs[name][...] = x


def _write_gradients(
    launch: Launch,
    refs: Refs,
    chunk: Chunk,
    u_KxE: Array,
    raw_KxE: Array,
    t_KxE: Array,
    dread_KxE: Array,
) -> None:
    """Compute the gradients of the inputs from what the loops collected at each position."""
    into_KxE = chunk.collected("into")
    du_KxE, ddelta_KxE = into_KxE * t_KxE, into_KxE * u_KxE + log(2) * chunk.collected("rate")
    if launch.options.softplus:
        ddelta_KxE *= jax.nn.sigmoid(raw_KxE)
    if "bias" in refs:
        refs["dbias"][...] += jnp.sum(ddelta_KxE, axis=0, keepdims=True)
    if "D" in refs:
        du_KxE += dread_KxE * refs["D"][...]
        refs["dD"][...] += jnp.sum(dread_KxE * u_KxE, axis=0, keepdims=True)
    if "z" in refs:
        ungated_KxE, z_KxE = chunk.collected("read"), chunk.channels("z")
        if "D" in refs:
            ungated_KxE += refs["D"][...] * u_KxE
        gate_KxE = jax.nn.sigmoid(z_KxE)
        dz_KxE = chunk.channels("dy") * ungated_KxE * gate_KxE * (1 + z_KxE * (1 - gate_KxE))
        refs["dz"][...] = dz_KxE.astype(refs["dz"].dtype)
    refs["du"][...] = du_KxE.astype(refs["du"].dtype)
    refs["ddelta"][...] = ddelta_KxE.astype(refs["ddelta"].dtype)
