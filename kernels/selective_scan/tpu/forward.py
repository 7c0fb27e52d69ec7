"""The forward kernel for TPUs: the state stays in VMEM while the grid walks over time."""

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


def run_forward(
    inputs: ScanInputs, options: Options, *, keep: bool
) -> tuple[tuple[Array, Array], Array | None]:
    """Run the forward kernel.

    Returns:
        y (B, L, E), in the dtype of u, and the last state (B, E, N), in float32; and with ``keep``
        the state before each chunk, (B, chunks, N, E), in float32, otherwise ``None``.
    """
    launch = launch_for(inputs, options, backward=False)
    batch, _, chunks = launch.grid
    state = (batch, launch.states, launch.channels)
    results = {
        "y": jax.ShapeDtypeStruct(inputs.u.shape, inputs.u.dtype),
        "last": jax.ShapeDtypeStruct(state, jnp.float32),
    }
    if keep:
        results["starts"] = jax.ShapeDtypeStruct((batch, chunks, *state[1:]), jnp.float32)
    wide = (launch.chunk, launch.block)
    scratch = {"state": (launch.states, launch.block), "t32": wide, "x32": wide, "read": wide}
    values = call(_kernel, launch, operands(inputs, options), results, scratch)
    return (values["y"], values["last"].swapaxes(1, 2)), values.get("starts")


def _kernel(launch: Launch, refs: Refs) -> None:
    step = pl.program_id(2)
    chunk = Chunk(launch, refs)

    @pl.when(step == 0)
    def _() -> None:
        state = refs["state"]
        state[...] = refs["initial"][...] if "initial" in refs else jnp.zeros_like(state)

    if "starts" in refs:
        refs["starts"][...] = refs["state"][...]
    u_KxE = chunk.channels("u")
    t_KxE = chunk.time_steps()[1]
    refs["t32"][...], refs["x32"][...] = t_KxE, t_KxE * u_KxE
    A_NxE, B_NxW, C_NxW = refs["A"][...], chunk.states("B"), chunk.states("C")

    def visit(position: Array, h_NxE: Array) -> Array:
        at, lane_1xW = pl.ds(position, 1), chunk.lane_of(position)
        enter_NxE = refs["x32"][at] * column(B_NxW, lane_1xW)
        h_NxE = jnp.exp2(chunk.decay_time(position) * A_NxE) * h_NxE + enter_NxE
        read_NxE = h_NxE * column(C_NxW, lane_1xW)
        refs["read"][at] = jnp.sum(read_NxE, axis=0, keepdims=True)
        return h_NxE

    refs["state"][...] = chunk.walk(visit, refs["state"][...], descending=launch.options.reverse)
    y_KxE = refs["read"][...]
    if "D" in refs:
        y_KxE += refs["D"][...] * u_KxE
    if "z" in refs:
        y_KxE *= jax.nn.silu(chunk.channels("z"))
    # The loop wrote nothing at the positions that it left out.
    refs["y"][...] = jnp.where(chunk.valid_KxE, y_KxE, 0).astype(refs["y"].dtype)

    @pl.when(step == launch.grid[2] - 1)
    def _() -> None:
        refs["last"][...] = refs["state"][...]
