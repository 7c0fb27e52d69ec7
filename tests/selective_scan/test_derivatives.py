"""Second derivatives against "associative" in float64, and what is said where there are none."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from selective_scan import gpu, selective_scan_readout, tpu
from selective_scan.arguments import ScanInputs
from selective_scan.dispatch import scan_named
from tests.selective_scan.oracle import JAX_NAMES, inputs

SHAPE = (2, 18, 2, 2)  # "fused" has two chunks, the last of them padded
GIVEN = ("D", "z", "delta_bias", "initial_state")
LENGTHS = np.array([18, 11])
KERNELS = {
    "pallas_gpu": partial(gpu.scan, interpret=True),
    "pallas_tpu": partial(tpu.scan, interpret=True),
}
MODES = {
    "forward over reverse": lambda loss: jax.jacfwd(jax.grad(loss)),
    "reverse over reverse": lambda loss: jax.jacrev(jax.grad(loss)),
}


def scan_loss(name, arrays):
    args = ScanInputs(**{JAX_NAMES[k]: v for k, v in arrays.items()}, lengths_B=LENGTHS)
    scan = KERNELS.get(name) or scan_named(name)
    y, last = scan(args, softplus=True, reverse=True)
    return jnp.sum(jnp.sin(y)) + jnp.sum(last**2)


def readout_loss(name, arrays):
    named = {JAX_NAMES[k]: v for k, v in arrays.items() if k not in ("C", "D", "z")}
    y = selective_scan_readout(
        **named, C_BxN=arrays["C"][:, 0], delta_softplus=True, stop_B=LENGTHS, implementation=name
    )
    return jnp.sum(jnp.sin(y))


LOSSES = {"scan": scan_loss, "readout": readout_loss}


def hessian(loss, name, mode, dtype):
    arrays = inputs(SHAPE, GIVEN)
    flat, unravel = ravel_pytree({k: jnp.asarray(v, dtype) for k, v in arrays.items()})
    return jax.jit(MODES[mode](lambda flat: loss(name, unravel(flat))))(flat)


@pytest.fixture(scope="module")
def exact():
    """Return the Hessian of each loss, in float64."""
    with jax.enable_x64(True):
        mode = "reverse over reverse"
        return {
            kind: np.asarray(hessian(loss, "associative", mode, jnp.float64))
            for kind, loss in LOSSES.items()
        }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("kind", "name"), [("scan", "fused"), ("scan", "sequential"), ("readout", "fused")]
)
def test_hessian(exact, kind, name, mode):
    actual = np.asarray(hessian(LOSSES[kind], name, mode, jnp.float32), np.float64)
    np.testing.assert_allclose(actual, exact[kind], rtol=1e-3, atol=2e-5)
    np.testing.assert_array_less(1e-3, np.max(np.abs(exact[kind])))


def arrays_of(names=GIVEN):
    return {k: jnp.asarray(v, jnp.float32) for k, v in inputs(SHAPE, names).items()}


@pytest.mark.parametrize("name", ["reference", *KERNELS])
def test_second_derivatives_are_refused(name):
    arrays = arrays_of()
    loss = partial(scan_loss, name)
    norm = lambda arrays: sum(jnp.sum(x**2) for x in jax.tree.leaves(jax.grad(loss)(arrays)))  # noqa: E731
    for second in (jax.grad(norm), jax.jit(jax.grad(norm)), jax.jacfwd(jax.grad(loss))):
        with pytest.raises(TypeError, match=f"^implementation '{name}' has first deriv.*: 'fused'"):
            second(arrays)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("readout", "fused"), *(("scan", name) for name in ("fused", "reference", *KERNELS))],
)
def test_forward_mode_is_refused(kind, name):
    arrays = arrays_of()
    loss = partial(LOSSES[kind], name)
    along = lambda arrays: jax.jvp(loss, (arrays,), (arrays,))  # noqa: E731
    mapped = jax.jacfwd(lambda A: loss(arrays | {"A": A}))
    for forward in (along, jax.jit(along), lambda arrays: mapped(arrays["A"])):
        with pytest.raises(TypeError, match=f"^implementation '{name}' has no forward-mode.*chunk"):
            forward(arrays)
