"""Which implementations there are, which of them run here, and which one "auto" takes."""

from collections.abc import Callable
from difflib import get_close_matches

import jax
import jax.numpy as jnp

from selective_scan import associative, chunked, fused, reference, sequential
from selective_scan.arguments import Scan, ScanInputs, surrounded


def implementations() -> dict[str, str | None]:
    """Return the implementations by name: ``None`` where one runs here, else why it does not."""
    return {name: _NEEDS[name]() if name in _NEEDS else None for name in _SCANS}


def chosen(implementation: str, dtype: jnp.dtype) -> str:
    """Return the name of the implementation to run.

    Args:
        implementation: a name, or "auto": the kernel of this platform, or else "fused".
        dtype: of the states; the kernels have no float64.

    Raises:
        ValueError: the name is unknown, or that implementation cannot run here.
    """
    if implementation == "auto":
        kernels = [name for name, needs in _NEEDS.items() if needs() is None]
        return kernels[0] if kernels and dtype == jnp.float32 else "fused"
    if implementation not in _SCANS:
        near = get_close_matches(implementation, _SCANS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown implementation {implementation!r}{hint} (known: auto, {', '.join(_SCANS)})"
        )
    reasons = implementations()
    if reasons[implementation] is not None:
        here = [name for name, reason in reasons.items() if reason is None]
        raise ValueError(
            f"implementation {implementation!r} cannot run here: {reasons[implementation]} "
            f"(here run: auto, {', '.join(here)})"
        )
    return implementation


def scan_named(name: str) -> Scan:
    """Return an implementation."""
    return _SCANS[name]


# The kernels are imported where they are used: that takes a third of a second.


def _pallas_gpu(
    inputs: ScanInputs, *, softplus: bool, reverse: bool
) -> tuple[jax.Array, jax.Array]:
    from selective_scan import pallas_gpu

    return pallas_gpu.scan(inputs, softplus=softplus, reverse=reverse)


def _pallas_tpu(
    inputs: ScanInputs, *, softplus: bool, reverse: bool
) -> tuple[jax.Array, jax.Array]:
    from selective_scan import pallas_tpu

    return pallas_tpu.scan(inputs, softplus=softplus, reverse=reverse)


def _needs_hopper() -> str | None:
    device = jax.devices()[0]
    if device.platform != "gpu":
        return f"needs an NVIDIA GPU; this is {device.platform}"
    capability = str(getattr(device, "compute_capability", "unknown"))
    if not capability.replace(".", "").isdigit() or float(capability) < 9:
        return f"needs an NVIDIA GPU of compute capability 9.0 or newer; this one's is {capability}"
    return None


def _needs_tpu() -> str | None:
    platform = jax.devices()[0].platform
    return None if platform == "tpu" else f"needs a TPU; this is {platform}"


_SCANS: dict[str, Scan] = {
    "pallas_gpu": _pallas_gpu,
    "pallas_tpu": _pallas_tpu,
    "fused": surrounded(fused.scan),
    "chunked": surrounded(chunked.scan),
    "associative": surrounded(associative.scan),
    "sequential": surrounded(sequential.scan),
    "reference": surrounded(reference.scan),
}
_NEEDS: dict[str, Callable[[], str | None]] = {
    "pallas_gpu": _needs_hopper,
    "pallas_tpu": _needs_tpu,
}
