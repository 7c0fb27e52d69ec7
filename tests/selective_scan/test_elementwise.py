"""The fast exponential and softplus against NumPy's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selective_scan import elementwise
from selective_scan.elementwise import softplus

exp2 = jax.jit(elementwise.exp2)  # of some ten operations


def test_float32_is_within_its_bound():
    x = np.float32(
        np.concatenate(
            [
                np.linspace(-126, 127.9, 400_001),
                np.linspace(-1, 1, 100_001),
                np.arange(-126, 128),
                np.arange(-126, 127) + 0.5,
                [1e-30, -1e-30, 0.0, -0.0],
            ]
        )
    )
    expected = np.exp2(x.astype(np.float64))
    assert np.max(np.abs(np.asarray(exp2(x), np.float64) / expected - 1)) < 2e-7
    np.testing.assert_array_equal(exp2(np.float32([0, 1, -1, 10])), [1, 2, 0.5, 1024])


def test_ends_of_the_range():
    assert np.all(np.abs(exp2(np.float32([-126.4, -127, -500, -3e38, -np.inf]))) <= 2.0**-126)
    assert np.all(exp2(np.float32([-127, -500, -np.inf])) == 0)
    assert np.all(exp2(np.float32([128, 500, np.inf])) == np.inf)
    assert np.isnan(exp2(np.float32(np.nan)))


def test_derivatives_of_every_order():
    """A cast of bits, which it goes through, has a derivative of 0."""
    x, derivative = np.float32(1.3), exp2
    for order in (1, 2, 3):
        derivative = jax.grad(derivative)
        np.testing.assert_allclose(jax.jit(derivative)(x), np.log(2) ** order * 2**x, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_float64_is_the_librarys():
    x = jnp.linspace(-300, 300, 1001, dtype=jnp.float64)
    np.testing.assert_allclose(exp2(x), np.exp2(np.asarray(x)), rtol=1e-13)


def test_softplus_and_its_derivatives_have_all_digits():
    """At 0 too, where it changes from one formula to the other."""
    x = np.linspace(-15, 15, 30_001, dtype=np.float32)
    sigmoid = 1 / (1 + np.exp(-x.astype(np.float64)))
    expected = (
        np.logaddexp(0, x.astype(np.float64)),
        sigmoid,
        sigmoid * (1 - sigmoid),
    )
    function = softplus
    for wanted in expected:
        found = np.asarray(jax.jit(jax.vmap(function))(x), np.float64)
        np.testing.assert_allclose(found, wanted, rtol=2e-6)
        function = jax.grad(function)
