"""The whole scan as one Pallas kernel for TPUs: no array of size (B, L, E, N) is in HBM.

If there is a gradient to compute, the forward kernel stores the state before every chunk of
positions, (B, L / chunk, N, E), and the backward kernel recomputes a chunk's states from it in
VMEM.
"""

from functools import partial

from jax import Array

from selective_scan.arguments import ScanInputs, in_parts, with_epilogue
from selective_scan.missing_derivatives import differentiable_once
from selective_scan.tpu.backward import run_backward
from selective_scan.tpu.blocks import Options
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
    return _scan(inputs, Options(softplus, reverse, interpret))


_scan = differentiable_once("pallas_tpu", run_forward, run_backward)
