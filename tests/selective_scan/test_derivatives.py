"""Second derivatives against "associative" in float64, and what is said where there are none."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from selective_scan import (
    selective_scan,
    selective_scan_prefix_readouts,
    selective_scan_readout,
)
from selective_scan.arguments import ScanInputs, _softplus
from tests.selective_scan.oracle import INTERPRETED, SCANS, float32, for_readout, inputs

SHAPE = (2, 18, 2, 2)  # "tiled" has two chunks, the last of them padded
GIVEN = ("D", "z", "delta_bias", "initial_state")
LENGTHS = np.array([18, 11])
MODES = {
    "forward over reverse": lambda loss: jax.jacfwd(jax.grad(loss)),
    "reverse over reverse": lambda loss: jax.jacrev(jax.grad(loss)),
}


def scan_loss(name, arrays):
    args = ScanInputs(**arrays, lengths=LENGTHS)
    y, last = SCANS[name](args, softplus=True, reverse=True)
    return jnp.sum(jnp.sin(y)) + jnp.sum(last**2)


def readout_loss(name, arrays):
    used, options = for_readout(arrays), {"stop": LENGTHS, "implementation": name}
    y = selective_scan_readout(**used, delta_softplus=True, **options)
    return jnp.sum(jnp.sin(y))


LOSSES = {"scan": scan_loss, "readout": readout_loss}


def hessian(loss, name, mode, dtype):
    arrays = inputs(SHAPE, GIVEN)
    flat, unravel = ravel_pytree({k: jnp.asarray(v, dtype) for k, v in arrays.items()})
    return jax.jit(MODES[mode](lambda flat: loss(name, unravel(flat))))(flat)


@cache
def exact(kind):
    """Return the Hessian of a loss, in float64."""
    with jax.enable_x64(True):
        mode = "reverse over reverse"
        return np.asarray(hessian(LOSSES[kind], "associative", mode, jnp.float64))


@pytest.mark.parametrize(
    ("kind", "name", "mode"),
    [
        ("scan", "tiled", "reverse over reverse"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("scan", "tiled", "forward over reverse"),
                *(("readout", "tiled", mode) for mode in MODES),
                *(("scan", "sequential", mode) for mode in MODES),
            )
        ),
    ],
)
def test_hessian(kind, name, mode):
    actual = np.asarray(hessian(LOSSES[kind], name, mode, jnp.float32), np.float64)
    np.testing.assert_allclose(actual, exact(kind), rtol=1e-3, atol=2e-5)
    np.testing.assert_array_less(1e-3, np.max(np.abs(exact(kind))))


def test_derivatives_of_softplus():
    """All scans have the same, so that they agree where it is wrong."""
    derivative, s = _softplus, 1 / (1 + np.exp(-0.7))
    for expected in (s, s * (1 - s), s * (1 - s) * (1 - 2 * s)):
        derivative = jax.grad(derivative)
        np.testing.assert_allclose(jax.jit(derivative)(0.7), expected, rtol=1e-5)


def arrays_of(names=GIVEN):
    return float32(inputs(SHAPE, names))


@pytest.mark.parametrize("name", ["reference", *INTERPRETED])
def test_second_derivatives_are_refused(name):
    arrays = arrays_of()
    loss = partial(scan_loss, name)
    norm = lambda arrays: sum(jnp.sum(x**2) for x in jax.tree.leaves(jax.grad(loss)(arrays)))  # noqa: E731
    for second in (jax.grad(norm), jax.jacfwd(jax.grad(loss))):
        with pytest.raises(TypeError, match=f"^implementation '{name}' has first deriv.*: 'tiled'"):
            jax.eval_shape(second, arrays)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("readout", "tiled"), *(("scan", name) for name in ("tiled", "reference", *INTERPRETED))],
)
def test_forward_mode_is_refused(kind, name):
    arrays = arrays_of()
    loss = partial(LOSSES[kind], name)
    along = lambda arrays: jax.jvp(loss, (arrays,), (arrays,))  # noqa: E731
    mapped = jax.jacfwd(lambda A: loss(arrays | {"A": A}))
    of_A = (mapped, jax.jit(mapped))
    for forward in (along, jax.jit(along), *(lambda arrays, f=f: f(arrays["A"]) for f in of_A)):
        with pytest.raises(TypeError, match=f"^implementation '{name}' has no forward-mode.*chunk"):
            forward(arrays)


def test_forward_mode_of_prefix_readouts_is_refused():
    used = {k: x for k, x in arrays_of(()).items() if k != "u"}
    readouts = lambda u: selective_scan_prefix_readouts(u, **used)  # noqa: E731
    for forward in (jax.jacfwd(readouts), jax.jit(jax.jacfwd(readouts))):
        with pytest.raises(TypeError, match=r"^selective_scan_prefix_readouts has no forw"):
            forward(arrays_of()["u"])


@pytest.mark.parametrize(
    "transform",
    [
        lambda loss: jax.vmap(jax.grad(loss)),
        lambda loss: jax.grad(lambda u: jnp.sum(jax.vmap(loss)(u))),
        lambda loss: jax.vmap(jax.grad(jax.checkpoint(lambda u: jax.jit(loss)(u)))),
        lambda loss: jax.grad(lambda u: jax.lax.scan(lambda s, u: (s + loss(u), None), 0.0, u)[0]),
        lambda loss: jax.vmap(jax.grad(lambda u: jax.lax.cond(u[0, 0, 0] > 9, jnp.sum, loss, u))),
    ],
)
def test_reverse_mode_is_not_refused_inside_other_transformations(transform):
    arrays = arrays_of(())
    u = np.stack([arrays.pop("u")] * 2)
    loss = lambda u: jnp.sum(selective_scan(u, **arrays, implementation="tiled"))  # noqa: E731
    expected = jax.grad(loss)(u[0])
    np.testing.assert_allclose(jax.jit(transform(loss))(u)[1], expected, rtol=1e-5, atol=1e-6)
