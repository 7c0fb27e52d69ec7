"""Each element of every gradient, also the tiny ones, from very small to very large time steps.

A float32 sum is as exact as its terms are large: the bound of an element's error is a multiple of
the sum of its terms' absolute values, which the oracle computes from the inputs' absolute values.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scan_problems import ask_oracle
from selective_scan import gpu, selective_scan_readout
from selective_scan.arguments import ScanInputs
from tests.selective_scan import oracle
from tests.selective_scan.oracle import inputs

SHAPE = (2, 37, 3, 4)  # chunks of "tiled" and of the kernels end in padding
TIME_STEPS = [1e-4, 1e-2, 0.69, 2.0, 50.0]  # softplus(0) = .69 is the official model's start
RATES = [-1.0, -8.0, -16.0, -32.0]

# exp(t A) is as exact as its argument, of which 87 is the largest before float32 flushes to 0:
# half a unit in the last place of 87, twice (in t and in t A), and the additions.
RELATIVE = 2e-5
# What float32 flushed, below 1.2e-38 an element, times g t (some hundreds), summed over positions.
FLUSHED = 1e-33


SCANS = oracle.SCANS | {"pallas_gpu": partial(gpu.scan, interpret=True, segments=2)}


def draw(time_step):
    """Return float32 inputs with such time steps, give or take a tenth."""
    arrays = inputs(SHAPE, ("initial_state",))
    steps = time_step * np.random.default_rng(1).uniform(0.9, 1.1, arrays["delta"].shape)
    arrays["delta"] = steps + np.log(-np.expm1(-steps))  # the inverse of softplus
    arrays["A"] = np.tile(RATES, (SHAPE[2], 1))
    return {k: np.float32(v) for k, v in arrays.items()}


def expected(arrays, dy, dlast, reverse):
    """Return the oracle's values, and for each the sum of its terms' absolute values."""
    exact = {k: np.float64(v) for k, v in arrays.items()}
    values, sums, _ = ask_oracle(dy, dlast, exact, reverse=reverse)
    return values, sums


def check(actual, values, sums):
    for name, x in actual.items():
        error = np.abs(np.float64(x) - values[name])
        bound = RELATIVE * sums[name] + FLUSHED
        worst = np.unravel_index(np.argmax(error / bound), error.shape)
        assert np.all(error <= bound), (name, worst, float(x[worst]), values[name][worst])


def outer():
    rng = np.random.default_rng(9)
    return rng.normal(size=SHAPE[:3]), rng.normal(size=(SHAPE[0], *SHAPE[2:]))


def check_scan(scan, *, reverse):
    """Compare each element of values and gradients with the oracle, for all time steps."""
    dy, dlast = outer()

    @jax.jit
    def run(arrays):
        def loss(arrays):
            y, last = scan(ScanInputs(**arrays), softplus=True, reverse=reverse)
            return jnp.sum(y * dy) + jnp.sum(last * dlast), {"y": y, "last": last}

        grads, values = jax.grad(loss, has_aux=True)(arrays)
        return grads | values

    for time_step in TIME_STEPS:
        arrays = draw(time_step)
        check(jax.device_get(run(arrays)), *expected(arrays, dy, dlast, reverse))


@pytest.mark.parametrize("name", SCANS)
def test_every_element_of_every_gradient(name):
    check_scan(SCANS[name], reverse=name != "pallas_tpu")


@pytest.mark.parametrize("name", ["tiled", "sequential"])
def test_every_element_of_the_readouts_gradients(name):
    dy, dlast = outer()
    dy[:, :-1] = dlast[...] = 0

    @jax.jit
    def run(arrays):
        def loss(arrays):
            used = arrays | {"C": arrays["C"][:, -1]}
            y = selective_scan_readout(**used, delta_softplus=True, implementation=name)
            return jnp.sum(y * dy[:, -1])

        return jax.grad(loss)(arrays)

    for time_step in TIME_STEPS:
        arrays = draw(time_step)
        check(jax.device_get(run(arrays)), *expected(arrays, dy, dlast, False))
