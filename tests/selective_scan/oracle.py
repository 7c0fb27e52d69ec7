"""Random inputs, and implementations side by side with the float64 oracle."""

import jax
import jax.numpy as jnp
import numpy as np

from selective_scan import selective_scan_gradients, selective_scan_reference
from selective_scan.arguments import ScanInputs

OPTIONS = {
    "plain": (),
    "mamba": ("D", "z", "delta_bias"),
    "everything": ("D", "z", "delta_bias", "initial_state", "lengths"),
}
JAX_NAMES = {
    "u": "u_BxLxE",
    "delta": "delta_BxLxE",
    "A": "A_ExN",
    "B": "B_BxLxN",
    "C": "C_BxLxN",
    "D": "D_E",
    "z": "z_BxLxE",
    "delta_bias": "delta_bias_E",
    "initial_state": "initial_state_BxExN",
    "lengths": "lengths_B",
}


def inputs(shape, given=OPTIONS["everything"], seed=0):
    """Return float64 NumPy arrays by the oracle's names."""
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
    }
    return {k: v for k, v in arrays.items() if k in ("u", "delta", "A", "B", "C", *given)}


def run(scan, arrays, dtype, reverse):
    """Return (actual, expected) for y, the last state and all gradients, jitted.

    ``scan`` is called as ``scan(ScanInputs, softplus=True, reverse=reverse)``.
    """
    floats = {k: jnp.asarray(v, dtype) for k, v in arrays.items() if k != "lengths"}
    lengths = arrays.get("lengths")
    rng = np.random.default_rng(9)
    dy = rng.normal(size=arrays["u"].shape)
    dlast = rng.normal(size=(len(dy), *arrays["A"].shape))

    def call(floats):
        named = {JAX_NAMES[k]: v for k, v in floats.items()}
        whole = ScanInputs(**named, lengths_B=None if lengths is None else jnp.asarray(lengths))
        return scan(whole, softplus=True, reverse=reverse)

    def loss(floats):
        y, last = call(floats)
        return jnp.sum(y * dy) + jnp.sum(last * dlast), (y, last)

    y, last = jax.jit(call)(floats)
    grads, (y_again, last_again) = jax.jit(jax.grad(loss, has_aux=True))(floats)
    rounded = {k: np.asarray(v, np.float64) for k, v in floats.items()}
    options = {"delta_softplus": True, "lengths": lengths, "reverse": reverse}
    expected_y, expected_last = selective_scan_reference(**rounded, **options)
    expected = selective_scan_gradients(dy, dlast, **rounded, **options)
    pairs = {"y": (y, expected_y), "last_state": (last, expected_last)}
    pairs |= {"y, kept": (y_again, expected_y), "last_state, kept": (last_again, expected_last)}
    return pairs | {k: (grads[k], expected[k]) for k in grads}


def compare(pairs, tolerance):
    """Assert that every actual value is near the expected one, relative to the largest."""
    for name, (actual, expected) in pairs.items():
        actual = np.asarray(actual, np.float64)
        assert actual.shape == expected.shape, name
        error = np.max(np.abs(actual - expected), initial=0)
        assert error <= tolerance * max(np.max(np.abs(expected), initial=0), 1e-3), (name, error)
