"""The launches of a forward and a backward pass, and what flows between them."""

import dataclasses

import jax.numpy as jnp
from jax import Array

from selective_scan import mosaic_backward, mosaic_forward
from selective_scan.arguments import ScanInputs
from selective_scan.mosaic_arrays import Cut, Options
from selective_scan.mosaic_kernel import Input, in_time

Arrays = dict[str, Array]


def run_forward(inputs: ScanInputs, options: Options, *, gradient: bool) -> Arrays:
    """Return y (G, B, L, E), last (G, B, E, N) and what the gradient needs."""
    cut = Cut(inputs, options, ahead=2)
    kept: Arrays = {}
    initial = cut.initial()
    shared = cut.shared("u", "delta", "A2", "B", "bias")
    if cut.segments > 1:
        ends = cut.run(
            mosaic_forward.ENDS,
            shared,
            outputs={"last": cut.states_shape(), "total": cut.channels_shape()},
            scratch=dict.fromkeys(("t", "x"), cut.blocks.tile_shape),
        )
        kept["total"] = ends["total"]
        initial = cut.between(ends["last"], ends["total"], initial, from_end=False)
    elif initial is not None:
        initial = cut.in_planes(initial)
    outputs = {"y": cut.in_time_shape(inputs.u_BxLxE.dtype), "last": cut.states_shape()}
    if gradient:
        outputs["starts"] = cut.starts_shape()
    results = cut.run(
        mosaic_forward.FORWARD,
        shared | cut.shared("C", "D", "z") | _given("initial", initial),
        outputs,
        scratch=dict.fromkeys(("t", "x", "read"), cut.blocks.tile_shape),
    )
    if gradient:
        kept["starts"] = results["starts"]
    last = cut.outermost(results["last"], from_end=False)
    return {"y": cut.whole(results["y"]), "last": last} | kept


def run_backward(
    inputs: ScanInputs, kept: Arrays, dy: Array, dlast: Array | None, options: Options
) -> Arrays:
    """Return the gradients, each with the axis G, sums over rows done where the input has none."""
    # Under ``jax.vmap`` there may be more sets here than in the forward pass, whose segments stay.
    segments = kept["starts"].shape[1] // inputs.u_BxLxE.shape[1]
    options = dataclasses.replace(options, segments=segments)
    cut = Cut(inputs, options, beside=(dy, dlast, *kept.values()))
    kept = {name: jnp.repeat(x, cut.sets // len(x), axis=0) for name, x in kept.items()}
    blocks = cut.blocks
    shared = cut.shared("delta", "A2", "C", "bias", "z", from_end=True)
    spec = in_time(blocks, len(dy), from_end=True)
    shared["dy"] = (cut.in_time(dy, cut.padded_channels), spec)
    behind = None if dlast is None else cut.state_array(dlast)
    if cut.segments > 1:
        arrives = cut.run(
            mosaic_backward.ARRIVES,
            shared,
            outputs={"dinitial": cut.states_shape()},
            scratch=dict.fromkeys(("t", "w"), blocks.tile_shape),
        )
        behind = cut.between(arrives["dinitial"], kept["total"], behind, from_end=True)
    elif behind is not None:
        behind = cut.in_planes(behind)
    outputs = {
        "du": cut.in_time_shape(inputs.u_BxLxE.dtype, from_end=True),
        "ddelta": cut.in_time_shape(inputs.delta_BxLxE.dtype, from_end=True),
        "dB": cut.partial_shape(),
        "dC": cut.partial_shape(),
        "dA": cut.states_shape(),
        "dinitial": cut.states_shape(),
        "dD": cut.channels_shape(),
        "dbias": cut.channels_shape(),
    }
    scratch: dict[str, tuple[int, ...]] = {"states": (blocks.chunk, *blocks.state_shape)}
    scratch |= dict.fromkeys(("t", "x", "w", "dx", "dt"), blocks.tile_shape)
    if inputs.z_BxLxE is not None:
        outputs["dz"] = cut.in_time_shape(inputs.z_BxLxE.dtype, from_end=True)
    grads = cut.run(
        mosaic_backward.BACKWARD,
        shared
        | cut.shared("u", "B", "D", from_end=True)
        | {"starts": (kept["starts"], None)}
        | _given("dlast", behind),
        outputs,
        scratch,
    )
    E, N = cut.channels, cut.states
    dinitial = cut.outermost(grads["dinitial"], from_end=True)
    dA = cut.from_planes(jnp.sum(grads["dA"], axis=1))[:, :E, :N]
    of_rows = {name: jnp.sum(grads[name], axis=1)[:, :E] for name in ("dD", "dbias")}
    return (
        {name: cut.whole(grads[name]) for name in ("du", "ddelta", "dz") if name in grads}
        | {
            name: cut.whole(cut.where_visited(cut.over_channel_blocks(grads[name])), N)
            for name in ("dB", "dC")
        }
        | of_rows
        | {"dA": dA, "dinitial": dinitial}
    )


def _given(name: str, array: Array | None) -> dict[str, Input]:
    return {} if array is None else {name: (array, None)}
