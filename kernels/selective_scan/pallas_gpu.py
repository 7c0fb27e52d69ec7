"""The whole scan as one Mosaic GPU kernel: nothing of size (B, L, E, N) leaves the chip.

The forward kernel keeps the state before every chunk of time, (B, L / chunk, E, N), when there is
a gradient to come; the backward kernel recomputes a chunk from it. Few long rows are cut into
segments that run side by side: first each segment's end from a state of 0, then the states between
segments (a segment decays its start by exp(A times its sum of time steps)), then all of it again
from the right starts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap

from selective_scan.arguments import ScanInputs, surrounded
from selective_scan.missing_derivatives import first_derivatives_only, no_forward_mode
from selective_scan.mosaic_arrays import Options
from selective_scan.mosaic_launches import Arrays, run_backward, run_forward
from selective_scan.mosaic_plans import MOST_STATES


def scan(
    inputs: ScanInputs, *, softplus: bool, reverse: bool, interpret: bool = False
) -> tuple[Array, Array]:
    """Run the scan; see ``selective_scan``."""
    if inputs.A_ExN.shape[1] > MOST_STATES:
        return surrounded(partial(_in_parts, interpret=interpret))(
            inputs, softplus=softplus, reverse=reverse
        )
    one = jax.tree.map(lambda x: x[None], inputs)
    y, last = scan_sets(one, Options(softplus, (reverse,), interpret))
    return y[0], last[0]


def scan_both(
    inputs: ScanInputs, *, softplus: bool, interpret: bool = False
) -> tuple[Array, Array]:
    """Run both directions in one launch; see ``bidirectional.scan_both``."""
    if inputs.A_ExN.shape[-1] <= MOST_STATES:
        A = jnp.broadcast_to(inputs.A_ExN, (2, *inputs.A_ExN.shape[1:]))
        return scan_sets(inputs._replace(A_ExN=A), Options(softplus, (False, True), interpret))
    each = [
        scan(
            jax.tree.map(lambda x: x[d if len(x) == 2 else 0], inputs),  # noqa: B023
            softplus=softplus,
            reverse=bool(d),
            interpret=interpret,
        )
        for d in (0, 1)
    ]
    return jax.tree.map(lambda *x: jnp.stack(x), *each)


def _in_parts(
    u: Array,
    t: Array,
    A: Array,
    B: Array,
    C: Array,
    state: Array,
    *,
    reverse: bool,
    interpret: bool,
) -> tuple[Array, Array]:
    """Run parts of the states as sets of one launch; their outputs add up."""
    states = A.shape[1]
    parts = -(-states // MOST_STATES)

    def cut(x: Array) -> Array:  # (..., N) -> (parts, ..., N / parts)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -states % parts)])
        return jnp.moveaxis(x.reshape(*x.shape[:-1], parts, -1), -2, 0)

    inputs = ScanInputs(u[None], t[None], cut(A), cut(B), cut(C), initial_state_BxExN=cut(state))
    y, last = scan_sets(inputs, Options(False, (reverse,), interpret))
    last = jnp.moveaxis(last, 0, -2)
    return jnp.sum(y, axis=0), last.reshape(*last.shape[:-2], -1)[..., :states]


def scan_sets(inputs: ScanInputs, options: Options) -> tuple[Array, Array]:
    """Run several scans in one launch.

    Args:
        inputs: arrays with one more axis in front: the set, G of them, or 1 for what all share.
        options: ``reverse`` has a flag for each direction; set g is of direction g modulo those.

    Returns:
        y (G, B, L, E) in the dtype of u and the last states (G, B, E, N), float32.
    """
    return _scan(no_forward_mode("pallas_gpu", inputs), options)


def mapped_as_sets(function: Callable[..., Arrays]) -> Callable[..., Arrays]:
    """Return ``function``, which under ``jax.vmap`` takes the mapped copies as further sets.

    Arrays have the set as first axis, G or 1, and results have it, G.
    """
    call = custom_vmap(function)

    @call.def_vmap
    def rule(size: int, mapped: Any, *arrays: Any) -> tuple[Arrays, Any]:
        def fold(x: Array, is_mapped: bool) -> Array:
            if not is_mapped:
                if len(x) == 1:
                    return x  # shared by all
                x = jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        results = mapped_as_sets(function)(*jax.tree.map(fold, arrays, tuple(mapped)))
        unfolded = {name: x.reshape(size, -1, *x.shape[1:]) for name, x in results.items()}
        return unfolded, dict.fromkeys(results, True)

    return call


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _scan(inputs: ScanInputs, options: Options) -> tuple[Array, Array]:
    run = mapped_as_sets(partial(run_forward, options=options, gradient=False))
    results = run(inputs)
    return results["y"], results["last"]


def _forward_rule(inputs: ScanInputs, options: Options) -> tuple[Any, Any]:
    inputs = first_derivatives_only("pallas_gpu", inputs)
    results = mapped_as_sets(partial(run_forward, options=options, gradient=True))(inputs)
    kept = {name: results[name] for name in ("starts", "total") if name in results}
    return (results["y"], results["last"]), (inputs, kept)


def _backward_rule(options: Options, residuals: Any, outer: Any) -> tuple[ScanInputs]:
    inputs, kept = residuals
    outer = first_derivatives_only("pallas_gpu", outer)
    grads = mapped_as_sets(partial(run_backward, options=options))(inputs, kept, *outer)
    names = {
        "u_BxLxE": "du",
        "delta_BxLxE": "ddelta",
        "A_ExN": "dA",
        "B_BxLxN": "dB",
        "C_BxLxN": "dC",
        "D_E": "dD",
        "z_BxLxE": "dz",
        "delta_bias_E": "dbias",
        "initial_state_BxExN": "dinitial",
    }
    sums = {}
    for field, name in names.items():
        x = getattr(inputs, field)
        if x is not None:
            # What several sets share takes the sum of their gradients.
            grad = grads[name].reshape(len(x), -1, *grads[name].shape[1:])
            sums[field] = jnp.sum(grad.astype(jnp.float32), axis=1).astype(x.dtype)
    return (ScanInputs(**sums),)


_scan.defvjp(_forward_rule, _backward_rule)
