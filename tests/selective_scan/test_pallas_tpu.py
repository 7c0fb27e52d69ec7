"""The TPU kernels: interpreted against the oracle, and lowered as they are for a TPU."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.topologies import get_topology_desc
from jax.extend.core import jaxprs_in_params
from jax.sharding import SingleDeviceSharding

from selective_scan import (
    pallas_tpu,
    pallas_tpu_launch,
    selective_scan_gradients,
    selective_scan_reference,
)
from selective_scan.arguments import ScanInputs

FIELDS = {
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
OPTIONS = {
    "plain": (),
    "mamba": ("D", "z", "delta_bias"),
    "everything": ("D", "z", "delta_bias", "initial_state", "lengths"),
}
# The interpreted kernels are large to compile and quick to run.
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut small scans into as many blocks as large ones have."""
    monkeypatch.setattr(pallas_tpu_launch, "_MOST_POSITIONS", 16)
    monkeypatch.setattr(pallas_tpu_launch, "_MOST_CHANNELS", 128)


def draw(shape, given=OPTIONS["everything"]):
    batch, length, channels, states = shape
    rng = np.random.default_rng(3)
    arrays = {
        "u": rng.normal(size=(batch, length, channels)),
        "delta": rng.normal(size=(batch, length, channels)),
        "A": -np.exp(rng.normal(size=(channels, states))),
        "B": rng.normal(size=(batch, length, states)),
        "C": rng.normal(size=(batch, length, states)),
        "D": rng.normal(size=channels),
        "z": rng.normal(size=(batch, length, channels)),
        "delta_bias": rng.normal(size=channels),
        "initial_state": rng.normal(size=(batch, channels, states)),
        # A row without any position, one with all, others in between.
        "lengths": np.linspace(0, length, batch).astype(np.int32)
        if batch > 1
        else np.array([length], np.int32),
    }
    return {k: v for k, v in arrays.items() if k in ("u", "delta", "A", "B", "C", *given)}


def scan_of(arrays, *, softplus=True, reverse=False, interpret=True):
    inputs = ScanInputs(**{FIELDS[k]: v for k, v in arrays.items()})
    return pallas_tpu.scan(inputs, softplus=softplus, reverse=reverse, interpret=interpret)


def compare_with_the_oracle(arrays, dtype, tolerance, *, reverse, softplus=True):
    """Compare y, the last state and the gradient of every input."""
    floats = {k: jnp.asarray(v, dtype) for k, v in arrays.items() if k != "lengths"}
    lengths = {k: v for k, v in arrays.items() if k == "lengths"}
    rng = np.random.default_rng(9)
    dy = rng.normal(size=arrays["u"].shape)
    dlast = rng.normal(size=(len(dy), *arrays["A"].shape))

    def loss(floats):
        y, last = scan_of(floats | lengths, softplus=softplus, reverse=reverse)
        return jnp.sum(y * dy) + jnp.sum(last * dlast), (y, last)

    both = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK_COMPILE)
    (_, (y, last)), grads = both(floats)
    assert (y.dtype, last.dtype) == (dtype, jnp.float32)
    rounded = {k: np.asarray(v, np.float64) for k, v in floats.items()}
    options = {"delta_softplus": softplus, "reverse": reverse} | lengths
    expected = selective_scan_gradients(dy, dlast, **rounded, **options)
    expected["y"], expected["last"] = selective_scan_reference(**rounded, **options)
    for name, actual in (grads | {"y": y, "last": last}).items():
        assert actual.shape == expected[name].shape, name
        error = np.max(np.abs(np.asarray(actual, np.float64) - expected[name]))
        assert error <= tolerance * max(np.max(np.abs(expected[name])), 1e-3), (name, error)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_equals_the_oracle(options, reverse):
    arrays = draw((3, 37, 5, 3), OPTIONS[options])
    compare_with_the_oracle(arrays, jnp.float32, 1e-5, reverse=reverse)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("shape", "options", "reverse"),
    [
        ((1, 1, 1, 1), "everything", False),
        ((2, 130, 2, 3), "plain", True),  # several chunks in a window of B and C
        ((2, 5, 130, 16), "everything", True),  # the last block of channels is nearly empty
    ],
)
def test_odd_shapes_without_softplus(shape, options, reverse):
    arrays = draw(shape, OPTIONS[options])
    for name in ("delta", "delta_bias"):
        if name in arrays:
            arrays[name] = np.abs(arrays[name])
    compare_with_the_oracle(arrays, jnp.float32, 1e-5, reverse=reverse, softplus=False)


def test_bfloat16_inputs_keep_float32_states():
    compare_with_the_oracle(draw((2, 150, 5, 16)), jnp.bfloat16, 2e-2, reverse=True)


def test_more_states_than_fit():
    arrays = draw((1, 3, 2, 300), OPTIONS["everything"])
    compare_with_the_oracle(arrays, jnp.float32, 1e-5, reverse=False)


def test_vmap_equals_one_after_the_other():
    arrays = {k: jnp.asarray(v, jnp.float32) for k, v in draw((2, 6, 3, 2)).items()}
    arrays["lengths"] = arrays["lengths"].astype(jnp.int32)
    mapped = {k: jnp.stack([v, v[::-1]]) for k, v in arrays.items() if k != "A"}

    def loss(mapped):
        y, last = scan_of(mapped | {"A": arrays["A"]})
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.sin(last))

    gradient = jax.value_and_grad(loss, allow_int=True)
    actual = jax.jit(jax.vmap(gradient), compiler_options=QUICK_COMPILE)(mapped)
    one = jax.jit(gradient, compiler_options=QUICK_COMPILE)
    for i in range(2):
        expected = one({k: v[i] for k, v in mapped.items()})
        for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            if x.dtype == jnp.float32:
                np.testing.assert_allclose(x[i], y, rtol=1e-5, atol=1e-6)


def loss_of(arrays, reverse):
    y, last = scan_of(arrays, reverse=reverse, interpret=False)
    return jnp.sum(y.astype(jnp.float32) ** 2) + jnp.sum(last)


def shapes_of(shape, dtype, given):
    dtypes = {"A": jnp.float32, "initial_state": jnp.float32, "lengths": jnp.int32}
    return {
        k: jax.ShapeDtypeStruct(v.shape, dtypes.get(k, dtype))
        for k, v in draw(shape, OPTIONS[given]).items()
    }


@pytest.mark.parametrize(
    ("shape", "dtype", "given", "reverse"),
    [
        ((2, 50, 128, 32), jnp.float32, "everything", False),
        ((2, 50, 128, 32), jnp.bfloat16, "mamba", True),
        ((1, 1, 1, 1), jnp.float32, "plain", True),
        ((2, 37, 5, 3), jnp.bfloat16, "everything", True),
        ((2, 300, 130, 16), jnp.float32, "mamba", False),
    ],
)
def test_lowers_for_a_tpu(shape, dtype, given, reverse):
    check_lowering(shapes_of(shape, dtype, given), reverse)


@pytest.mark.usefixtures("x64")
def test_lowers_for_a_tpu_where_float64_is_switched_on():
    check_lowering(shapes_of((2, 300, 5, 3), jnp.float32, "everything"), True)


def check_lowering(arrays, reverse):
    forward = lambda arrays: scan_of(arrays, reverse=reverse, interpret=False)  # noqa: E731
    backward = jax.grad(lambda arrays: loss_of(arrays, reverse), allow_int=True)
    for function, names in (
        (forward, {"selective_scan"}),
        (backward, {"selective_scan", "selective_scan_backward"}),
    ):
        text = jax.jit(function).trace(arrays).lower(lowering_platforms=("tpu",)).as_text()
        assert text.count("stablehlo.custom_call @tpu_custom_call") == len(names)
        assert all(f'kernel_name = "{name}"' in text for name in names)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_compiles_for_a_tpu(dtype, monkeypatch):
    pytest.importorskip("libtpu", reason="libtpu is not installed: it compiles without a TPU too")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    device = get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    gradient = jax.grad(lambda arrays: loss_of(arrays, False), allow_int=True)
    arrays = shapes_of((2, 300, 640, 16), dtype, "everything")
    on_tpu = jax.jit(gradient, in_shardings=SingleDeviceSharding(device))
    on_tpu.trace(arrays).lower(lowering_platforms=("tpu",)).compile()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_states_of_all_positions_never_leave_the_kernels(dtype):
    shape = (2, 1000, 160, 16)
    arrays = shapes_of(shape, dtype, "everything")
    jaxpr = jax.make_jaxpr(jax.grad(lambda x: loss_of(x, False), allow_int=True))(arrays)
    sizes = [x.aval.size for x in outside_kernels(jaxpr.jaxpr)]
    assert len(sizes) > 20
    assert max(sizes) < math.prod(shape) // 8


def outside_kernels(jaxpr):
    """Yield every variable of a jaxpr and of those inside it, but not inside a kernel."""
    for equation in jaxpr.eqns:
        yield from equation.outvars
        if equation.primitive.name != "pallas_call":
            for inner in jaxprs_in_params(equation.params):
                yield from outside_kernels(inner)
