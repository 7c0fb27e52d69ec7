"""The whole scan as one Mosaic GPU kernel: no array of size (B, L, E, N) is in the GPU's memory.

If there is a gradient to compute, the forward kernel stores the state before every chunk of
positions, (B, L / chunk, E, N), and the backward kernel recomputes the states of a chunk from it.

A few long rows would not fill the GPU, so they are cut into segments of time that run in parallel,
in three passes. The first scans each segment from a state of 0. The second computes the states
between segments: a segment decays the state in which it starts by exp(A times the sum of its time
steps). The third scans all segments again from those states. (These segments have nothing to do
with ``segment_ids``.)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap

from selective_scan.arguments import ScanInputs, in_parts, with_epilogue
from selective_scan.gpu.arrays import Options
from selective_scan.gpu.launches import Arrays, run_backward, run_forward
from selective_scan.gpu.plans import MOST_STATES, Plan
from selective_scan.missing_derivatives import differentiable_once


def scan(
    inputs: ScanInputs,
    *,
    softplus: bool,
    reverse: bool,
    last: bool = True,
    interpret: bool = False,
    plan: Plan | None = None,
    segments: int | None = None,
) -> tuple[Array, Array]:
    """Run the scan; see ``arguments.Scan``, and ``Options`` for the others."""
    if inputs.A.shape[1] > MOST_STATES:
        one = partial(scan, interpret=interpret, plan=plan, segments=segments)
        parts = with_epilogue(in_parts(one, MOST_STATES))
        return parts(inputs, softplus=softplus, reverse=reverse)
    options = Options(softplus, (reverse,), interpret, plan, segments, last)
    y, state = scan_sets(jax.tree.map(lambda x: x[None], inputs), options)
    return y[0], state[0]


def scan_both(
    inputs: ScanInputs, *, softplus: bool, last: bool = True, interpret: bool = False
) -> tuple[Array, Array]:
    """Run both directions of at most ``MOST_STATES`` in one launch; see ``bidirectional_scan``."""
    A = jnp.broadcast_to(inputs.A, (2, *inputs.A.shape[1:]))
    options = Options(softplus, (False, True), interpret, last=last)
    return scan_sets(inputs._replace(A=A), options)


def scan_sets(inputs: ScanInputs, options: Options) -> tuple[Array, Array]:
    """Run several scans, called sets, in one launch.

    Args:
        inputs: the arrays of ``selective_scan`` with a leading axis, G sets, or 1 if all sets share
            the array.
        options: ``reverse`` has a flag for each direction; set g has direction g modulo their
            number.

    Returns:
        y (G, B, L, E), in the dtype of u, and the last states (G, B, E, N), in float32; zeros
        without ``options.last``.

    Raises:
        TypeError: forward-mode or second derivatives are taken.
    """
    y, last = _scan(inputs, options)
    if last is None:
        last = jnp.zeros((len(y), y.shape[1], *inputs.A.shape[1:]), jnp.float32)
    return y, last


def mapped_as_sets(function: Callable[..., Arrays]) -> Callable[..., Arrays]:
    """Return ``function`` with a rule for ``jax.vmap``, which makes mapped copies further sets.

    The arrays have the set as their first axis, of size G or 1, and so have the results, of size G.
    """
    call = custom_vmap(function)

    @call.def_vmap
    def rule(size: int, mapped: Any, *arrays: Any) -> tuple[Arrays, Any]:
        def fold(x: Array, is_mapped: bool) -> Array:
            if not is_mapped:
                if len(x) == 1:
                    return x  # shared by all sets
                x = jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        results = mapped_as_sets(function)(*jax.tree.map(fold, arrays, tuple(mapped)))
        unfolded = {name: x.reshape(size, -1, *x.shape[1:]) for name, x in results.items()}
        return unfolded, dict.fromkeys(results, True)

    return call


def _forward(inputs: ScanInputs, options: Options, *, keep: bool) -> tuple[Any, Arrays]:
    run = mapped_as_sets(partial(run_forward, options=options, gradient=keep))
    results = run(inputs)
    return (results.pop("y"), results.pop("last", None)), results


def _backward(inputs: ScanInputs, kept: Arrays, outer: Any, options: Options) -> ScanInputs:
    grads = mapped_as_sets(partial(run_backward, options=options))(inputs, kept, *outer)
    sums = {}
    for name, grad in grads.items():
        x = getattr(inputs, name)
        if x is not None:
            # The gradient of an array that sets share is the sum over those sets.
            grad = grad.reshape(len(x), -1, *grad.shape[1:])
            sums[name] = jnp.sum(grad.astype(jnp.float32), axis=1).astype(x.dtype)
    return ScanInputs(**sums)


_scan = differentiable_once("pallas_gpu", _forward, _backward)
