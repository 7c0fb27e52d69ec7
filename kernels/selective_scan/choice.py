"""Which implementations there are, which of them run here, and which one "auto" takes."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan import associative, chunked, fused, reference, sequential
from selective_scan.arguments import Scan, ScanInputs, surrounded


def implementations() -> dict[str, str | None]:
    """Return the implementations by name: ``None`` where one runs here, else why it does not."""
    return {name: _NEEDS[name]() if name in _NEEDS else None for name in _SCANS}


def chosen(implementation: str, *arrays: Array | None) -> str:
    """Return the name of the implementation to run.

    Args:
        implementation: a name, or "auto": the kernel of this platform where it takes the arrays,
            or else "fused".
        arrays: what it is to run on.

    Raises:
        ValueError: the name is unknown, or that implementation cannot run here.
    """
    unfit = _unfit([x for x in arrays if x is not None])
    reasons = {name: reason or unfit.get(name) for name, reason in implementations().items()}
    here = [name for name, reason in reasons.items() if reason is None]
    if implementation == "auto":
        return here[0]
    if implementation not in _SCANS:
        near = get_close_matches(implementation, _SCANS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown implementation {implementation!r}{hint} (known: auto, {', '.join(_SCANS)})"
        )
    if reasons[implementation] is not None:
        raise ValueError(
            f"implementation {implementation!r} cannot run here: {reasons[implementation]} "
            f"(here run: auto, {', '.join(here)})"
        )
    return implementation


def _unfit(arrays: list[Array]) -> dict[str, str]:
    """Return the implementations that do not take these arrays, and why."""
    if jnp.result_type(*arrays) == jnp.float64:
        return dict.fromkeys(_NEEDS, "it computes in float32, and an input is float64")
    if any(jax.typeof(x).manual_axis_type.varying for x in arrays):
        return dict.fromkeys(_NEEDS, "inside shard_map, Pallas needs check_vma=False")
    if not all(isinstance(size, int) for x in arrays for size in x.shape):
        needs = "it needs a number for every size, and one is symbolic"
        return dict.fromkeys(("pallas_gpu", "reference"), needs)
    return {}


def scan_named(name: str, chunk: int | None = None) -> Scan:
    """Return an implementation.

    Args:
        name: from ``implementations()``.
        chunk: positions a chunk of "chunked" (its own choice by default).

    Raises:
        ValueError: ``chunk`` is below 1, or is given for another implementation.
    """
    if chunk is None:
        return _SCANS[name]
    if name != "chunked":
        raise ValueError(f"chunk={chunk} is for implementation 'chunked', not for {name!r}")
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: a chunk has 1 position or more")
    return surrounded(partial(chunked.scan, chunk=chunk))


# The kernels are imported where they are used: that takes a third of a second.


def _pallas_gpu(inputs: ScanInputs, *, softplus: bool, reverse: bool) -> tuple[Array, Array]:
    from selective_scan import pallas_gpu

    return pallas_gpu.scan(inputs, softplus=softplus, reverse=reverse)


def _pallas_tpu(inputs: ScanInputs, *, softplus: bool, reverse: bool) -> tuple[Array, Array]:
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


# In the order of preference.
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
