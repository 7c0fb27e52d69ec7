"""The whole scan as one Pallas kernel for TPUs: no array of size (B, L, E, N) is in HBM.

If there is a gradient to compute, the forward kernel stores the state before every chunk of
positions, (B, L / chunk, N, E), and the backward kernel recomputes a chunk's states from it in
VMEM.
"""

from functools import partial
from typing import Any

import jax
from jax import Array

from selective_scan.arguments import ScanInputs, in_parts, with_epilogue
from selective_scan.missing_derivatives import first_derivatives_only, no_forward_mode
from selective_scan.tpu.backward import run_backward
from selective_scan.tpu.forward import run_forward

_MOST_STATES = 256  # of a launch; more would not fit into the VMEM of every TPU


def scan(
    inputs: ScanInputs,
    *,
    softplus: bool,
    reverse: bool,
    last: bool = True,
    interpret: bool = False,
) -> tuple[Array, Array]:
    """Run the scan; see ``arguments.Scan``.

    Args:
        inputs: float32 or bfloat16 arrays; time steps, decays and states are float32 in any case.
        softplus: whether to apply softplus to the time steps.
        reverse: whether to scan from the last position to the first.
        last: ignored; the last state is always computed.
        interpret: run on any backend, slowly.

    Raises:
        TypeError: forward-mode or second derivatives are taken.
    """
    if inputs.A.shape[1] > _MOST_STATES:
        parts = in_parts(partial(scan, interpret=interpret), _MOST_STATES)
        return with_epilogue(parts)(inputs, softplus=softplus, reverse=reverse)
    return _scan(no_forward_mode("pallas_tpu", inputs), softplus, reverse, interpret)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _scan(
    inputs: ScanInputs, softplus: bool, reverse: bool, interpret: bool
) -> tuple[Array, Array]:
    y, last, _ = run_forward(
        inputs, softplus=softplus, reverse=reverse, keep=False, interpret=interpret
    )
    return y, last


def _forward_rule(
    inputs: ScanInputs, softplus: bool, reverse: bool, interpret: bool
) -> tuple[Any, Any]:
    inputs = first_derivatives_only("pallas_tpu", inputs)
    y, last, starts = run_forward(
        inputs, softplus=softplus, reverse=reverse, keep=True, interpret=interpret
    )
    return (y, last), (inputs, starts)


def _backward_rule(
    softplus: bool, reverse: bool, interpret: bool, kept: Any, outer: Any
) -> tuple[ScanInputs]:
    inputs, starts = kept
    dy, dlast = first_derivatives_only("pallas_tpu", outer)
    grads = run_backward(
        inputs, starts, dy, dlast, softplus=softplus, reverse=reverse, interpret=interpret
    )
    return (grads,)


_scan.defvjp(_forward_rule, _backward_rule)
