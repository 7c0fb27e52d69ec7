"""Which implementations there are, which of them run here, and which one "auto" takes."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan import measured, reference, tiled, xla
from selective_scan.arguments import (
    Core,
    Scan,
    ScanInputs,
    over_groups,
    repeated_in_time,
    state_dtype,
    with_epilogue,
)
from selective_scan.platforms import lowered_later, only_for

Inputs = TypeVar("Inputs", bound=tuple[Any, ...])
Tree = TypeVar("Tree")
Size = tuple[int, ...]  # B, L, E, N


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
    SCANS[name] = repeated_in_time(with_epilogue(scan))
    _NEEDS[name] = available or (lambda: None)


def run_by(
    implementation: str,
    run: Callable[[str, Inputs], Tree],
    like: Any,
    inputs: Any,
    size: Size | None = None,
) -> Any:
    """Return ``run(name, inputs)`` with the implementation of a name, or of "auto".

    ``run`` is called with a name of ``SCANS``; for other platforms only where it is lowered for
    them. ``like`` has shapes and dtypes of its results, ``inputs`` is a tuple of arrays; the others
    are as for ``resolve_implementation``. Where a kernel that is named is lowered for another
    platform than its own, that is a ``ValueError`` too.
    """
    names = resolve_implementation(implementation, *inputs, size=size)
    here = _platform()
    own = here if here in names else None

    def branch(platform: str | None) -> Callable[[Inputs], Tree]:
        by_name = partial(run, names[platform])
        return by_name if platform == own else partial(lowered_later, platform, by_name, like)

    if None not in names:
        (name,) = names.values()
        platform = _KERNELS[name]
        reason = implementations()[name] or f"needs {platform}, and this program is for another"
        (x, *rest), tree = jax.tree.flatten(inputs)
        x = only_for(platform, _refusal(name, reason), x)
        return run(name, jax.tree.unflatten(tree, [x, *rest]))
    if len(names) == 1:
        return branch(None)(inputs)
    kernels = {platform: branch(platform) for platform in names if platform is not None}
    return jax.lax.platform_dependent(inputs, default=branch(None), **kernels)


def scan_by(implementation: str) -> Scan:
    """Return the scan of a name or of "auto"; see ``run_by``."""

    def scan(
        inputs: ScanInputs, *, softplus: bool, reverse: bool, last: bool = True
    ) -> tuple[Array, Array]:
        def run(name: str, inputs: ScanInputs) -> tuple[Array, Array]:
            return over_groups(SCANS[name])(inputs, softplus=softplus, reverse=reverse, last=last)

        size = (*inputs.u.shape, inputs.A.shape[-1])
        name = without_repeats(implementation, inputs)
        return run_by(name, run, results_like(inputs), inputs, size)

    return scan


def without_repeats(implementation: str, inputs: ScanInputs) -> str:
    """Return "tiled" for "auto" where B or C is the same at all times; a kernel would repeat it."""
    same = implementation == "auto" and 2 in (inputs.B.ndim, inputs.C.ndim)
    return "tiled" if same else implementation


def results_like(inputs: ScanInputs) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Return shape and dtype of a scan's y and last state."""
    u, state = inputs.u, (inputs.u.shape[0], *inputs.A.shape)
    last = jax.ShapeDtypeStruct(state, state_dtype(*inputs[:5]))
    return jax.ShapeDtypeStruct(u.shape, u.dtype), last


def resolve_implementation(
    implementation: str, *arrays: Array | None, size: Size | None = None
) -> dict[str | None, str]:
    """Return the implementation by the platform for which the program is lowered, as "cuda".

    ``None`` stands for all platforms that are not there. "auto" is on each platform its kernel
    where that takes the arrays, or else what ``measured.fastest`` says of the scans in plain JAX:
    for this machine's device where no kernel runs on it, or else for a CPU. Where an array has no
    elements, it is "sequential", which cuts nothing into parts. Without a size of the scan, or
    where it has no number, "tiled" is the scan in plain JAX: the read-out has a closed form there.

    It is a ``ValueError`` where the name is unknown, or that implementation cannot run here; but a
    kernel of another platform can still be lowered for that.
    """
    given = [x for x in arrays if x is not None]
    unfit = _unfit(given)
    reasons = {
        name: unfit.get(name)
        or (None if _KERNELS.get(name, _platform()) != _platform() else reason)
        for name, reason in implementations().items()
    }
    if implementation != "auto" and implementation not in SCANS:
        near = get_close_matches(implementation, SCANS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown implementation {implementation!r}{hint} (known: auto, {', '.join(SCANS)})"
        )
    if reason := reasons.get(implementation):
        raise ValueError(_refusal(implementation, reason, unfit))
    if any(0 in x.shape for x in given):
        return {None: "sequential"}
    if implementation in _KERNELS:
        return {_KERNELS[implementation]: implementation}
    if implementation != "auto":
        return {None: implementation}
    kernels: dict[str | None, str] = {
        platform: name for name, platform in _KERNELS.items() if reasons[name] is None
    }
    plain = "tiled"
    if size is not None and all(isinstance(n, int) for n in size):
        here, kind = _platform(), jax.devices()[0].device_kind
        if here in kernels:
            here = kind = "cpu"
        plain = measured.fastest(here, kind, size, _PLAIN)
    return kernels | {None: plain}


def _refusal(name: str, reason: str, unfit: Mapping[str, str] = MappingProxyType({})) -> str:
    able = [other for other, why in implementations().items() if not (why or other in unfit)]
    return f"implementation {name!r} cannot run here: {reason} (here run: auto, {', '.join(able)})"


def _platform() -> str:
    """Return this machine's platform in the word of ``lax.platform_dependent``."""
    platform = jax.devices()[0].platform
    return "cuda" if platform == "gpu" else platform


def _unfit(arrays: list[Array]) -> dict[str, str]:
    """Return the implementations that do not take these arrays, and why."""
    if jnp.result_type(*arrays) == jnp.float64:
        return dict.fromkeys(_KERNELS, "it computes in float32, and an input is float64")
    if any(jax.typeof(x).manual_axis_type.varying for x in arrays):
        return dict.fromkeys(_KERNELS, "inside shard_map, Pallas needs check_vma=False")
    if not all(isinstance(size, int) for x in arrays for size in x.shape):
        needs = "it needs a number for every size, and one is symbolic"
        return dict.fromkeys(("pallas_gpu", "reference"), needs)
    return {}


def _pallas(module: str) -> Scan:
    """Return the scan of a module of kernels, whose import takes a third of a second, if used."""

    def scan(
        inputs: ScanInputs, *, softplus: bool, reverse: bool, last: bool = True
    ) -> tuple[Array, Array]:
        kernels: Any = import_module(f"selective_scan.{module}")
        return kernels.scan(inputs, softplus=softplus, reverse=reverse, last=last)

    return repeated_in_time(scan)


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
_PLAIN = ("tiled", "chunked", "associative", "sequential")
_KERNELS = {"pallas_gpu": "cuda", "pallas_tpu": "tpu"}  # by the platform of each
_NEEDS: dict[str, Callable[[], str | None]] = {
    "pallas_gpu": _needs_hopper,
    "pallas_tpu": _needs_tpu,
}
