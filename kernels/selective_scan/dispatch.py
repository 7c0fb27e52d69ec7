"""Which implementations there are, which of them run here, and which one "auto" takes."""

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan import reference, tiled, xla
from selective_scan.arguments import Core, Scan, ScanInputs, with_epilogue


def implementations() -> dict[str, str | None]:
    """Return the implementations by name: ``None`` where one runs here, else why it does not."""
    return {name: _NEEDS[name]() if name in _NEEDS else None for name in SCANS}


def register(name: str, scan: Core, available: Callable[[], str | None] | None = None) -> None:
    """Make ``implementation=name`` run a scan of your own; "auto" never takes it.

    Args:
        name: a new name, or one that was registered before and is to have another scan.
        scan: called with a ``Recurrence`` and the keyword ``reverse``; returns C . h at every
            position, (B, L, E), and the state after the last visited one, (B, E, N). Time steps,
            lengths, D and gate need no care: that is done around it.
        available: returns why the scan cannot run here, or ``None`` where it can.

    Raises:
        ValueError: the name is that of one of this package's implementations.
    """
    if name in _OWN or name == "auto":
        raise ValueError(f"{name!r} is this package's own; register under another name")
    SCANS[name] = with_epilogue(scan)
    _NEEDS[name] = available or (lambda: None)


def resolve_implementation(implementation: str, *arrays: Array | None) -> str:
    """Return the name of the implementation to run.

    Args:
        implementation: a name, or "auto": the kernel of this platform where it takes the arrays,
            or else "tiled".
        arrays: what it is to run on. Where one has no elements, that is "sequential", which cuts
            nothing into parts.

    Raises:
        ValueError: the name is unknown, or that implementation cannot run here.
    """
    given = [x for x in arrays if x is not None]
    unfit = _unfit(given)
    reasons = {name: reason or unfit.get(name) for name, reason in implementations().items()}
    here = [name for name, reason in reasons.items() if reason is None]
    if implementation == "auto":
        implementation = here[0]
    if implementation not in SCANS:
        near = get_close_matches(implementation, SCANS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown implementation {implementation!r}{hint} (known: auto, {', '.join(SCANS)})"
        )
    if reasons[implementation] is not None:
        raise ValueError(
            f"implementation {implementation!r} cannot run here: {reasons[implementation]} "
            f"(here run: auto, {', '.join(here)})"
        )
    return "sequential" if any(0 in x.shape for x in given) else implementation


def _unfit(arrays: list[Array]) -> dict[str, str]:
    """Return the implementations that do not take these arrays, and why."""
    kernels = ("pallas_gpu", "pallas_tpu")
    if jnp.result_type(*arrays) == jnp.float64:
        return dict.fromkeys(kernels, "it computes in float32, and an input is float64")
    if any(jax.typeof(x).manual_axis_type.varying for x in arrays):
        return dict.fromkeys(kernels, "inside shard_map, Pallas needs check_vma=False")
    if not all(isinstance(size, int) for x in arrays for size in x.shape):
        needs = "it needs a number for every size, and one is symbolic"
        return dict.fromkeys(("pallas_gpu", "reference"), needs)
    return {}


def _pallas(module: str) -> Scan:
    """Return the scan of a module of kernels, whose import takes a third of a second, if used."""

    def scan(inputs: ScanInputs, *, softplus: bool, reverse: bool) -> tuple[Array, Array]:
        kernels: Any = import_module(f"selective_scan.{module}")
        return kernels.scan(inputs, softplus=softplus, reverse=reverse)

    return scan


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
SCANS: dict[str, Scan] = {
    "pallas_gpu": _pallas("gpu"),
    "pallas_tpu": _pallas("tpu"),
    "tiled": with_epilogue(tiled.scan),
    "chunked": with_epilogue(xla.chunked),
    "associative": with_epilogue(xla.associative),
    "sequential": with_epilogue(xla.sequential),
    "reference": with_epilogue(reference.scan),
}
_OWN = tuple(SCANS)
_NEEDS: dict[str, Callable[[], str | None]] = {
    "pallas_gpu": _needs_hopper,
    "pallas_tpu": _needs_tpu,
}
