"""The table of implementations, which of them run here, and which one "auto" takes."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

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


class Implementation(NamedTuple):
    """A scan, and what decides where it runs."""

    scan: Scan
    # The platform that it is lowered for, as ``lax.platform_dependent`` names it; ``None``: all.
    platform: str | None = None
    # Returns why it cannot run on this machine, ``None`` if it can.
    needs: Callable[[], str | None] = lambda: None
    in_auto: bool = False  # whether "auto" may take it where no kernel runs
    symbolic_sizes: bool = True  # whether sizes may be symbolic, as in an export


def implementations() -> dict[str, str | None]:
    """Return the names of all implementations, each with the reason why it cannot run here.

    The reason is ``None`` if it can.
    """
    return {name: one.needs() for name, one in SCANS.items()}


def register(name: str, scan: Core, available: Callable[[], str | None] | None = None) -> None:
    """Make ``implementation=name`` run a scan of your own; "auto" never takes it.

    Args:
        name: a new name, or one that was registered before, whose scan is then replaced.
        scan: called with a ``Recurrence`` and the keyword ``reverse``; returns C . h at every
            position, (B, L, E), and the state after the last position that is scanned, (B, E, N).
            Bias, softplus, lengths, D and gate are applied around it.
        available: returns why the scan cannot run here, or ``None`` if it can; without it the scan
            runs everywhere.

    Raises:
        ValueError: the name is that of one of this package's implementations.
    """
    if name in _OWN or name == "auto":
        raise ValueError(f"{name!r} is this package's own name; register yours under another one")
    own = Implementation(repeated_in_time(with_epilogue(scan)))
    SCANS[name] = own if available is None else own._replace(needs=available)


def run_by(
    implementation: str,
    run: Callable[[str, Inputs], Tree],
    like: Any,
    inputs: Any,
    size: Size | None = None,
) -> Any:
    """Return ``run(name, inputs)`` with the implementation that is named, or that "auto" chooses.

    Args:
        implementation: a name, or "auto".
        run: called with a name of ``SCANS`` and the inputs. For another platform than this
            machine's it is traced only when the program is lowered for that platform.
        like: shapes and dtypes of the results of ``run``.
        inputs: a tuple of arrays.
        size: as for ``resolve_implementation``.

    Raises:
        ValueError: as for ``resolve_implementation``; or, on lowering, a kernel that was named is
            lowered for another platform than its own.
    """
    names = resolve_implementation(implementation, *inputs, size=size)
    here = _platform()
    own = here if here in names else None

    def branch(platform: str | None) -> Callable[[Inputs], Tree]:
        by_name = partial(run, names[platform])
        return by_name if platform == own else partial(lowered_later, platform, by_name, like)

    if None not in names:
        (name,) = names.values()
        platform = SCANS[name].platform
        assert platform is not None
        reason = implementations()[name] or f"needs {platform}, and this program is for another"
        (x, *rest), tree = jax.tree.flatten(inputs)
        x = only_for(platform, _refusal(name, reason), x)
        return run(name, jax.tree.unflatten(tree, [x, *rest]))
    if len(names) == 1:
        return branch(None)(inputs)
    kernels = {platform: branch(platform) for platform in names if platform is not None}
    return jax.lax.platform_dependent(inputs, default=branch(None), **kernels)


def scan_by(implementation: str) -> Scan:
    """Return the scan that is named, or that "auto" chooses; see ``run_by``."""

    def scan(
        inputs: ScanInputs, *, softplus: bool, reverse: bool, last: bool = True
    ) -> tuple[Array, Array]:
        def run(name: str, inputs: ScanInputs) -> tuple[Array, Array]:
            return SCANS[name].scan(inputs, softplus=softplus, reverse=reverse, last=last)

        size = (*inputs.u.shape, inputs.A.shape[-1])
        name = without_repeats(implementation, inputs)
        return run_by(name, run, results_like(inputs), inputs, size)

    return scan


def without_repeats(implementation: str, inputs: ScanInputs) -> str:
    """Return "tiled" for "auto" if B or C is (E, N), which the kernels would need repeated."""
    same = implementation == "auto" and 2 in (inputs.B.ndim, inputs.C.ndim)
    return "tiled" if same else implementation


def results_like(inputs: ScanInputs) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of a scan's y and last state."""
    u, state = inputs.u, (inputs.u.shape[0], *inputs.A.shape)
    last = jax.ShapeDtypeStruct(state, state_dtype(*inputs))
    return jax.ShapeDtypeStruct(u.shape, u.dtype), last


def resolve_implementation(
    implementation: str, *arrays: Array | None, size: Size | None = None
) -> dict[str | None, str]:
    """Return the implementation for each platform that the program may be lowered for.

    The keys are platforms in JAX's words, such as "cuda"; ``None`` stands for all others. "auto"
    takes the kernel of a platform if the kernel takes the arrays. For the other platforms it takes
    the scan in plain JAX that ``measured.fastest`` names, for this machine's device if that has no
    kernel, otherwise for a CPU. Without a size, or if the size is symbolic, that scan is "tiled",
    in which the read-out has a closed form. If an array is empty, every implementation is
    replaced by "sequential", which cuts nothing into parts.

    Args:
        implementation: a name, or "auto".
        arrays: the arrays of the scan.
        size: B, L, E and N of the scan.

    Raises:
        ValueError: the name is unknown, or its implementation cannot run here. A kernel of another
            platform is no error: it can still be lowered for that platform.
    """
    given = [x for x in arrays if x is not None]
    unfit = _unfit(given)
    here = _platform()
    reasons = {
        name: unfit.get(name) or (one.needs() if one.platform in (None, here) else None)
        for name, one in SCANS.items()
    }
    if implementation != "auto" and implementation not in SCANS:
        near = get_close_matches(str(implementation), SCANS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown implementation {implementation!r}{hint} (known: auto, {', '.join(SCANS)})"
        )
    if reason := reasons.get(implementation):
        raise ValueError(_refusal(implementation, reason, unfit))
    if any(0 in x.shape for x in given):
        return {None: "sequential"}
    if implementation != "auto":
        return {SCANS[implementation].platform: implementation}
    kernels: dict[str | None, str] = {
        SCANS[name].platform: name for name in _KERNELS if reasons[name] is None
    }
    plain = "tiled"
    if size is not None and all(isinstance(n, int) for n in size):
        kind = jax.devices()[0].device_kind
        if here in kernels:
            here = kind = "cpu"
        able = [name for name, one in SCANS.items() if one.in_auto]
        plain = measured.fastest(here, kind, size, able)
    return kernels | {None: plain}


def _refusal(name: str, reason: str, unfit: Mapping[str, str] = MappingProxyType({})) -> str:
    able = [other for other, why in implementations().items() if not (why or other in unfit)]
    return f"implementation {name!r} cannot run here: {reason} (these can: auto, {', '.join(able)})"


def _platform() -> str:
    """Return this machine's platform as ``lax.platform_dependent`` names it."""
    platform = jax.devices()[0].platform
    return "cuda" if platform == "gpu" else platform


def _unfit(arrays: list[Array]) -> dict[str, str]:
    """Return the implementations that do not take these arrays, each with the reason."""
    if any(x.dtype == jnp.float64 for x in arrays):
        return dict.fromkeys(_KERNELS, "it computes in float32, and an input is float64")
    if any(jax.typeof(x).manual_axis_type.varying for x in arrays):
        return dict.fromkeys(_KERNELS, "inside shard_map, Pallas needs check_vma=False")
    if not all(isinstance(size, int) for x in arrays for size in x.shape):
        needs = "it needs a number for every size, and one is symbolic"
        return {name: needs for name, one in SCANS.items() if not one.symbolic_sizes}
    return {}


def _pallas(module: str) -> Scan:
    """Return the scan of a module of kernels.

    The module is imported on first use, since the import takes a third of a second.
    """

    def scan(
        inputs: ScanInputs, *, softplus: bool, reverse: bool, last: bool = True
    ) -> tuple[Array, Array]:
        kernels: Any = import_module(f"selective_scan.{module}")
        return kernels.scan(inputs, softplus=softplus, reverse=reverse, last=last)

    return repeated_in_time(over_groups(scan))


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


# "auto" takes a kernel where it runs, and else of the scans in plain JAX the fastest as measured.
SCANS = {
    "pallas_gpu": Implementation(_pallas("gpu"), "cuda", _needs_hopper, symbolic_sizes=False),
    "pallas_tpu": Implementation(_pallas("tpu"), "tpu", _needs_tpu),
    "tiled": Implementation(with_epilogue(tiled.scan), in_auto=True),
    "chunked": Implementation(with_epilogue(xla.chunked), in_auto=True),
    "associative": Implementation(with_epilogue(xla.associative), in_auto=True),
    "sequential": Implementation(with_epilogue(xla.sequential), in_auto=True),
    "reference": Implementation(with_epilogue(reference.scan), symbolic_sizes=False),
}
_OWN = tuple(SCANS)
_KERNELS = [name for name, one in SCANS.items() if one.platform is not None]
