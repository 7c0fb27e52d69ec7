"""Scans held against the float64 oracle: values, last states and every gradient."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from echojax.gpu.record import Row
from echojax.gpu.scan_cases import Case
from selective_scan import selective_scan_gradients, selective_scan_reference

# Largest error relative to the largest value.
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}

Arrays = dict[str, Any]
# Named arrays -> y (G, B, L, E) and the last states (G, B, E, N) of G scans, or None without them.
Sets = Callable[[Arrays], tuple[jax.Array, jax.Array | None]]


def check(scan: Sets, case: Case, own: tuple[str, ...], reverses: tuple[bool, ...]) -> Row:
    """Hold G scans, without and with their gradients, against the oracle.

    Args:
        scan: what to check.
        case: inputs and options.
        own: the arguments of which each scan has its own, along a first axis of G.
        reverses: each scan's direction; G of them.
    """
    arrays = on_device(draw(case, own, len(reverses)), case.dtype)
    lengths = {k: arrays.pop(k) for k in ("lengths",) if k in arrays}
    y, last = jax.jit(lambda floats: scan(floats | lengths))(arrays)
    rng = np.random.default_rng(9)
    outer = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), (y, last))

    def both(floats: Arrays, outer: Any) -> Any:
        results, pull_back = jax.vjp(lambda floats: scan(floats | lengths), floats)
        return results, pull_back(outer)[0]

    (kept_y, kept_last), gradients = jax.jit(both)(arrays, outer)
    wanted = expected(arrays | lengths, case, own, reverses, outer)
    found = {"y": y, "y with gradient": kept_y} | {
        f"gradient of {k}": x for k, x in gradients.items()
    }
    if last is not None:
        found |= {"last state": last, "last state with gradient": kept_last}
    errors = {
        name: relative_error(x, wanted[name.removesuffix(" with gradient")])
        for name, x in found.items()
    }
    return judged(errors, TOLERANCES[case.dtype])


def draw(case: Case, own: tuple[str, ...] = (), sets: int = 1) -> Arrays:
    """Return float64 arrays by the oracle's names, ``own`` with an axis of ``sets`` in front."""
    B, L, E, N = case.shape
    rng = np.random.default_rng(0)
    shapes = {
        "u": (B, L, E), "delta": (B, L, E), "A": (E, N), "B": (B, L, N), "C": (B, L, N),
        "D": (E,), "z": (B, L, E), "delta_bias": (E,), "initial_state": (B, E, N),
    }  # fmt: skip
    arrays: Arrays = {
        name: rng.normal(size=(sets, *shape) if name in own else shape)
        for name, shape in shapes.items()
        if name in ("u", "delta", "A", "B", "C", *case.given)
    }
    arrays["A"] = -np.exp(arrays["A"])
    if case.small_steps:
        arrays["delta"] -= 14
    if not case.softplus:
        arrays["delta"] = np.abs(arrays["delta"])
    if "lengths" in case.given:
        lengths_B = rng.integers(L // 2, L + 1, B)
        lengths_B[1:3] = [L, 0][: B - 1]
        arrays["lengths"] = lengths_B.astype(np.int32)
    return arrays


def on_device(arrays: Arrays, dtype: str) -> Arrays:
    """Return the arrays in the dtypes that a Mamba layer gives them."""
    large = ("u", "delta", "B", "C", "z")
    return {
        name: jnp.asarray(
            x, x.dtype if name == "lengths" else dtype if name in large else "float32"
        )
        for name, x in arrays.items()
    }


def expected(
    arrays: Arrays, case: Case, own: tuple[str, ...], reverses: tuple[bool, ...], outer: Any
) -> dict[str, np.ndarray]:
    """Return what the oracle makes of G scans: y, last states, and gradients by name."""
    wide = {k: np.asarray(x, np.int32 if k == "lengths" else np.float64) for k, x in arrays.items()}
    results = []
    for place, reverse in enumerate(reverses):
        one: Arrays = {name: x[place] if name in own else x for name, x in wide.items()}
        options: Arrays = {"delta_softplus": case.softplus, "reverse": reverse}
        y, last = selective_scan_reference(**one, **options)
        dy = np.asarray(outer[0][place], np.float64)
        dlast = np.zeros_like(last) if outer[1] is None else np.asarray(outer[1][place], np.float64)
        gradients = selective_scan_gradients(dy, dlast, **one, **options)
        named = {f"gradient of {k}": x for k, x in gradients.items()}
        results.append({"y": y, "last state": last} | named)
    stacked = {name: np.stack([result[name] for result in results]) for name in results[0]}
    shared = {f"gradient of {name}" for name in wide if name not in own}
    return {name: x.sum(axis=0) if name in shared else x for name, x in stacked.items()}


def relative_error(actual: Any, wanted: np.ndarray) -> float:
    """Return the largest error relative to the largest value (a thousandth at least)."""
    actual = np.asarray(actual).astype(np.float64)
    if actual.shape != wanted.shape:
        raise ValueError(f"shape {actual.shape}, not {wanted.shape}")
    largest = max(float(np.abs(wanted).max(initial=0.0)), 1e-3)
    return float(np.abs(actual - wanted).max(initial=0.0)) / largest


def judged(errors: dict[str, float], tolerance: float) -> Row:
    """Return the row of a check from its errors by name."""
    # Not "error > tolerance": an error that is not a number has failed.
    beyond = {name: error for name, error in errors.items() if not error <= tolerance}
    row: Row = {
        "status": "failed" if beyond else "passed",
        "tolerance": tolerance,
        "errors": {k: error if math.isfinite(error) else None for k, error in errors.items()},
        "worst": max((e for e in errors.values() if math.isfinite(e)), default=None),
    }
    if beyond:
        row["reason"] = ", ".join(f"{name} {error:.1e}" for name, error in beyond.items())
    else:
        row["note"] = f"{row['worst']:.1e}"
    return row
