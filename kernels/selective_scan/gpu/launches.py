"""The launches of the forward and the backward pass, and the residuals between them."""

import dataclasses

import jax.numpy as jnp
from jax import Array

from selective_scan.arguments import ScanInputs
from selective_scan.gpu import backward, forward
from selective_scan.gpu.arrays import Cut, Options
from selective_scan.gpu.kernel import Input, in_time

Arrays = dict[str, Array]


def run_forward(inputs: ScanInputs, options: Options, *, gradient: bool) -> Arrays:
    """Return y (G, B, L, E), with ``options.last`` the states last (G, B, E, N), and residuals.

    With ``gradient`` there are "starts" and, if there is a gate, "ungated"; "total" is there if the
    rows are cut into segments.
    """
    # Half as many chunks as in the backward pass: what is done once per chunk is a third of the
    # instructions, and there are no states of a chunk to take up the room.
    cut = Cut(inputs, options, parts=2, ahead=2)
    kept: Arrays = {}
    initial = None if inputs.initial_state is None else cut.state_array(inputs.initial_state)
    shared = cut.operands("u", "delta", "A2", "B", "bias")
    if cut.segments > 1:
        ends = cut.run(
            forward.ENDS,
            shared,
            outputs={"last": cut.states_shape(), "total": cut.channels_shape()},
            scratch=dict.fromkeys(("t", "x"), cut.blocks.tile_shape),
        )
        kept["total"] = ends["total"]
        initial = cut.between(ends["last"], ends["total"], initial, from_end=False)
    elif initial is not None:
        initial = cut.in_planes(initial)
    outputs = {"y": cut.in_time_shape(inputs.u.dtype)}
    if options.last:
        outputs["last"] = cut.states_shape()
    if gradient:
        outputs["starts"] = cut.starts_shape()
    if gradient and inputs.z is not None:
        outputs["ungated"] = cut.tiles_shape(inputs.u.dtype)
    results = cut.run(
        forward.FORWARD,
        shared | cut.operands("C", "D", "z") | _given("initial", initial),
        outputs,
        scratch=dict.fromkeys(("t", "x"), cut.blocks.tile_shape),
    )
    if gradient:
        kept["starts"] = results["starts"]
    if "ungated" in results:  # by part
        y = results["ungated"]
        kept["ungated"] = y.reshape(*y.shape[:2], -1, cut.blocks.part, y.shape[-1])
    if options.last:
        kept["last"] = cut.outermost(results["last"], from_end=False)
    return {"y": cut.whole(results["y"])} | kept


def run_backward(
    inputs: ScanInputs, kept: Arrays, dy: Array, dlast: Array | None, options: Options
) -> Arrays:
    """Return the gradients by argument, with the axis G.

    Those of arguments without a batch axis are summed over rows.
    """
    # Under ``jax.vmap`` there may be more sets here than in the forward pass. The segments must be
    # those of the residuals all the same.
    segments = kept["starts"].shape[1] // inputs.u.shape[1]
    options = dataclasses.replace(options, segments=segments)
    cut = Cut(inputs, options, beside=(dy, dlast, *kept.values()))
    kept = {name: jnp.repeat(x, cut.sets // len(x), axis=0) for name, x in kept.items()}
    blocks = cut.blocks
    shared = cut.operands("delta", "A2", "C", "bias", "z", from_end=True)
    spec = in_time(blocks, len(dy), from_end=True)
    shared["dy"] = (cut.in_time(dy, cut.padded_channels), spec)
    after = None if dlast is None else cut.state_array(dlast)
    if cut.segments > 1:
        arrives = cut.run(
            backward.ARRIVES,
            shared,
            outputs={"dinitial": cut.states_shape()},
            scratch=dict.fromkeys(("t", "w"), blocks.tile_shape),
        )
        after = cut.between(arrives["dinitial"], kept["total"], after, from_end=True)
    elif after is not None:
        after = cut.in_planes(after)
    outputs = {
        "du": cut.in_time_shape(inputs.u.dtype, from_end=True),
        "ddelta": cut.in_time_shape(inputs.delta.dtype, from_end=True),
        "dB": cut.partial_shape(),
        "dC": cut.partial_shape(),
        "dA": cut.states_shape(),
        "dD": cut.channels_shape(),
        "dbias": cut.channels_shape(),
    }
    scratch: dict[str, tuple[int, ...]] = {"states": (blocks.chunk, *blocks.state_shape)}
    scratch |= dict.fromkeys(("t", "x", "w", "dx", "dt"), blocks.tile_shape)
    if inputs.initial_state is not None:
        outputs["dinitial"] = cut.states_shape()
    if inputs.z is not None:
        outputs["dz"] = cut.in_time_shape(inputs.z.dtype, from_end=True)
    grads = cut.run(
        backward.BACKWARD,
        shared
        | cut.operands("u", "B", "D", from_end=True)
        | {name: (kept[name], None) for name in ("starts", "ungated") if name in kept}
        | _given("dlast", after),
        outputs,
        scratch,
    )
    E, N = cut.channels, cut.states
    sums = {k: cut.whole(cut.where_valid(cut.over_channel_blocks(grads[f"d{k}"])), N) for k in "BC"}
    for name, of_row in (("D", "dD"), ("delta_bias", "dbias")):
        sums[name] = jnp.sum(grads[of_row], axis=1)[:, :E]
    sums["A"] = cut.from_planes(jnp.sum(grads["dA"], axis=1))[:, :E, :N]
    if "dinitial" in grads:
        sums["initial_state"] = cut.outermost(grads["dinitial"], from_end=True)
    return sums | {k: cut.whole(grads[f"d{k}"]) for k in ("u", "delta", "z") if f"d{k}" in grads}


def _given(name: str, array: Array | None) -> dict[str, Input]:
    return {} if array is None else {name: (array, None)}
