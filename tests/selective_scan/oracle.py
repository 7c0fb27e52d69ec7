"""Random inputs, and implementations side by side with the float64 oracle."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selective_scan import (
    gpu,
    implementations,
    selective_scan_gradients,
    selective_scan_reference,
    tpu,
)
from selective_scan.arguments import ScanInputs, over_groups, repeated_in_time
from selective_scan.dispatch import SCANS as OWN

OPTIONS = {
    "plain": (),
    "mamba": ("D", "z", "delta_bias"),
    "everything": ("D", "z", "delta_bias", "initial_state", "lengths"),
    "packed": ("D", "z", "delta_bias", "initial_state", "lengths", "segment_ids"),
}
# All options at least once, both directions.
EVERY_OPTION = [
    *(("plain", False), ("mamba", True), ("everything", True)),
    *(("packed", False), ("packed", True)),
]

# For kernels, which are long to compile: what "packed" holds too is slow.
FEW_OPTIONS = [
    pytest.param(*case, marks=[pytest.mark.slow] * (case[0] in ("mamba", "everything")))
    for case in EVERY_OPTION
]

# Of errors relative to the largest element.
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2, "float64": 1e-12}

# The kernels as plain JAX, and every implementation that can be run on this machine.
INTERPRETED = {
    "pallas_gpu": repeated_in_time(over_groups(partial(gpu.scan, interpret=True))),
    "pallas_tpu": repeated_in_time(over_groups(partial(tpu.scan, interpret=True))),
}
NAMES = [name for name, reason in implementations().items() if reason is None]
SCANS = {name: OWN[name].scan for name in NAMES} | INTERPRETED


def inputs(shape, given=OPTIONS["everything"], seed=0):
    """Return float64 NumPy arrays by the names of ``selective_scan``."""
    batch, length, channels, states = shape
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape)  # noqa: E731
    arrays = {
        "u": draw(batch, length, channels),
        "delta": draw(batch, length, channels),
        "A": -np.exp(draw(channels, states)),
        "B": draw(batch, length, states),
        "C": draw(batch, length, states),
        "D": draw(channels),
        "z": draw(batch, length, channels),
        "delta_bias": draw(channels),
        "initial_state": draw(batch, channels, states),
        "lengths": rng.integers(0, length + 1, batch).astype(np.int32),
        "segment_ids": np.cumsum(rng.random((batch, length)) < 0.3, axis=1).astype(np.int32),
    }
    return {k: v for k, v in arrays.items() if k in ("u", "delta", "A", "B", "C", *given)}


def grouped(arrays, groups, seed=5):
    """Return the arrays with B or C for groups of channels; ``None``: the same at all times."""
    (batch, length, channels), states = arrays["u"].shape, arrays["A"].shape[1]
    rng = np.random.default_rng(seed)
    shapes = {
        k: (channels, states) if g is None else (batch, length, g, states)
        for k, g in groups.items()
    }
    return arrays | {k: rng.normal(size=shape) for k, shape in shapes.items()}


def float32(arrays):
    """Return arrays as float32, whole numbers as int32."""
    return {k: v.astype(np.float32 if v.dtype.kind == "f" else np.int32) for k, v in arrays.items()}


def for_readout(arrays):
    """Return the arguments of ``selective_scan_readout``, which reads by the sum of C."""
    used = {k: v for k, v in arrays.items() if k not in ("D", "z", "lengths", "segment_ids")}
    stop = {"stop": arrays["lengths"]} if "lengths" in arrays else {}
    return used | {"C": arrays["C"].sum(1)} | stop


def check(scan, arrays, dtype="float32", *, reverse, softplus=True, tolerance=None):
    """Compare y, the last state and all gradients, of one compiled program, with the oracle.

    ``scan`` is called as ``scan(ScanInputs, softplus=softplus, reverse=reverse)``. Values are
    compared twice: as computed for themselves, and with what the gradient needs kept.
    """
    whole = {k: x for k, x in arrays.items() if k in ("lengths", "segment_ids")}
    floats = {k: x.astype(jnp.dtype(dtype)) for k, x in arrays.items() if k not in whole}
    rng = np.random.default_rng(9)
    dy = rng.normal(size=arrays["u"].shape)
    dlast = rng.normal(size=(len(dy), *arrays["A"].shape))

    def call(floats):
        given = jax.tree.map(jnp.asarray, ScanInputs(**floats, **whole))
        return scan(given, softplus=softplus, reverse=reverse)

    def loss(floats):
        y, last = call(floats)
        return jnp.sum(y * dy) + jnp.sum(last * dlast), (y, last)

    both = jax.jit(lambda floats: (call(floats), jax.grad(loss, has_aux=True)(floats)))
    (y, last), (grads, (y_kept, last_kept)) = both(floats)
    assert y.dtype == dtype
    assert last.dtype == jnp.promote_types(dtype, jnp.float32)
    rounded = {k: np.asarray(v, np.float64) for k, v in floats.items()} | whole
    options = {"delta_softplus": softplus, "reverse": reverse}
    expected_y, expected_last = selective_scan_reference(**rounded, **options)
    expected = selective_scan_gradients(dy, dlast, **rounded, **options)
    pairs = {"y": (y, expected_y), "last_state": (last, expected_last)}
    pairs |= {"y, kept": (y_kept, expected_y), "last_state, kept": (last_kept, expected_last)}
    pairs |= {k: (grads[k], expected[k]) for k in grads}
    compare(pairs, tolerance or TOLERANCES[dtype])


def compare(pairs, tolerance):
    """Assert that every actual value is near the expected one, relative to the largest.

    A sum that cancels to less than 1e-2 keeps the rounding of its terms, whose size is about 1.
    """
    for name, (actual, expected) in pairs.items():
        actual = np.asarray(actual, np.float64)
        assert actual.shape == expected.shape, name
        error = np.max(np.abs(actual - expected), initial=0)
        assert error <= tolerance * max(np.max(np.abs(expected), initial=0), 1e-2), (name, error)


def check_same(function, other, arguments, tolerance=1e-5):
    """Compare values and gradients of two functions of the same arguments."""

    @partial(jax.jit, static_argnums=0)
    def both(function):
        y, pull_back = jax.vjp(function, *arguments)
        weights = np.random.default_rng(9)
        outer = lambda x: jnp.asarray(weights.normal(size=x.shape), x.dtype)  # noqa: E731
        return jax.tree.leaves((y, pull_back(jax.tree.map(outer, y))))

    pairs = zip(both(function), both(other), strict=True)
    compare({str(n): (x, np.float64(wanted)) for n, (x, wanted) in enumerate(pairs)}, tolerance)
