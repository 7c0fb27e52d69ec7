"""The TPU kernels: interpreted against the oracle, and lowered as they are for a TPU."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.topologies import get_topology_desc
from jax.extend.core import jaxprs_in_params
from jax.sharding import SingleDeviceSharding

from selective_scan import tpu
from selective_scan.arguments import ScanInputs
from tests.selective_scan.oracle import EVERY_OPTION, INTERPRETED, OPTIONS, check, float32, inputs

# The interpreted kernels are large to compile and quick to run.
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut small scans into as many blocks as large ones have."""
    monkeypatch.setattr(tpu.blocks, "_MOST_POSITIONS", 16)
    monkeypatch.setattr(tpu.blocks, "_MOST_CHANNELS", 128)


def draw(shape, given=OPTIONS["everything"]):
    """Return inputs of which a row has no position, one has all, others are in between."""
    arrays = inputs(shape, given)
    if "lengths" in arrays and shape[0] > 1:
        arrays["lengths"] = np.linspace(0, shape[1], shape[0]).astype(np.int32)
    return arrays


def scan_of(arrays, *, softplus=True, reverse=False, interpret=True):
    options = {"softplus": softplus, "reverse": reverse, "interpret": interpret}
    return tpu.scan(ScanInputs(**arrays), **options)


# "packed" holds the other options; reversed, it is in the odd shapes below, and with softplus among
# the groups of ``test_implementations``.
FAST = ("plain", False), ("packed", False)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("options", "reverse"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case not in FAST)) for case in EVERY_OPTION],
)
def test_equals_the_oracle(options, reverse):
    arrays = draw((3, 37, 5, 3), OPTIONS[options])
    check(INTERPRETED["pallas_tpu"], arrays, reverse=reverse)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("shape", "options", "reverse"),
    [
        ((1, 1, 1, 1), "everything", False),
        ((2, 130, 2, 3), "packed", True),  # several chunks in a window of B and C
        # The last block of channels is nearly empty.
        pytest.param((2, 5, 130, 16), "everything", True, marks=pytest.mark.slow),
    ],
)
def test_odd_shapes_without_softplus(shape, options, reverse):
    arrays = draw(shape, OPTIONS[options])
    for name in ("delta", "delta_bias"):
        if name in arrays:
            arrays[name] = np.abs(arrays[name])
    check(INTERPRETED["pallas_tpu"], arrays, reverse=reverse, softplus=False)


def test_bfloat16_inputs_keep_float32_states():
    check(INTERPRETED["pallas_tpu"], draw((2, 150, 5, 16)), "bfloat16", reverse=True)


def test_more_states_than_fit():
    arrays = draw((1, 3, 2, 300), OPTIONS["everything"])
    check(INTERPRETED["pallas_tpu"], arrays, reverse=False)


def test_vmap_equals_one_after_the_other():
    arrays = float32(draw((2, 6, 3, 2)))
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
    dtypes = {"A": jnp.float32, "initial_state": jnp.float32}
    return {
        k: jax.ShapeDtypeStruct(v.shape, v.dtype if v.dtype == jnp.int32 else dtypes.get(k, dtype))
        for k, v in draw(shape, OPTIONS[given]).items()
    }


@pytest.mark.parametrize(
    ("shape", "dtype", "given", "reverse"),
    [
        ((2, 50, 128, 32), jnp.float32, "everything", False),
        ((2, 50, 128, 32), jnp.bfloat16, "mamba", True),
        ((1, 1, 1, 1), jnp.float32, "plain", True),
        ((2, 37, 5, 3), jnp.bfloat16, "packed", True),
        ((2, 300, 130, 16), jnp.float32, "mamba", False),
    ],
)
def test_lowers_for_a_tpu(shape, dtype, given, reverse):
    check_lowering(shapes_of(shape, dtype, given), reverse)


@pytest.mark.usefixtures("x64")
def test_lowers_for_a_tpu_where_float64_is_switched_on():
    check_lowering(shapes_of((2, 300, 5, 3), jnp.float32, "packed"), True)


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
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # libtpu ends the process at one it lacks
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    device = get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    gradient = jax.grad(lambda arrays: loss_of(arrays, False), allow_int=True)
    arrays = shapes_of((2, 300, 640, 16), dtype, "packed")
    on_tpu = jax.jit(gradient, in_shardings=SingleDeviceSharding(device))
    on_tpu.trace(arrays).lower(lowering_platforms=("tpu",)).compile()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_states_of_all_positions_never_leave_the_kernels(dtype):
    shape = (2, 1000, 160, 16)
    arrays = shapes_of(shape, dtype, "packed")
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
