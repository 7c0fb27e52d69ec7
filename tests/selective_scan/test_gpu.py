"""The compiled kernels on an NVIDIA GPU against the oracle: pytest -m gpu.

What runs everywhere (all options, odd shapes, vmap) is in the tests of implementations, which take
"pallas_gpu" too where it runs; here are the sizes of real layers, cut and long rows, many states,
and the dtypes that a Mamba layer has.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import mosaic_gpu as plgpu

from echojax.config import Config
from echojax.models import build_model, with_sizes
from selective_scan import bidirectional_scan, gpu, implementations, selective_scan
from tests.selective_scan import test_strong_decays as strong
from tests.selective_scan.oracle import OPTIONS, TOLERANCES, check, check_same, inputs

REASON = implementations()["pallas_gpu"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(REASON is not None, reason=f"pallas_gpu {REASON}"),
]

ODD, LONG = (2, 37, 5, 3), (1, 5000, 64, 16)  # few long rows are cut into segments


def mixed(inputs, *, softplus, reverse):
    """Run the kernels with A, D, bias and states in float32, as a Mamba layer gives them."""
    small = ("A", "D", "delta_bias", "initial_state")
    wide = {k: x.astype(jnp.float32) for k in small if (x := getattr(inputs, k)) is not None}
    return gpu.scan(inputs._replace(**wide), softplus=softplus, reverse=reverse)


@pytest.mark.parametrize(
    ("shape", "options", "dtype", "reverse"),
    [
        ((16, 50, 128, 32), "mamba", "float32", False),
        ((16, 50, 128, 32), "mamba", "bfloat16", False),
        ((8, 200, 128, 32), "everything", "float32", True),
        ((8, 200, 128, 32), "everything", "bfloat16", True),
        *((ODD, options, "float32", r) for options in OPTIONS for r in (False, True)),
        *((ODD, "everything", "bfloat16", r) for r in (False, True)),
        *((LONG, "everything", "float32", r) for r in (False, True)),
        *((shape, "packed", "float32", r) for shape in (ODD, LONG) for r in (False, True)),
        (LONG, "everything", "bfloat16", True),
        ((3, 1000, 130, 32), "everything", "float32", True),
        ((1, 16384, 32, 16), "plain", "float32", False),
        ((1, 1, 1, 1), "everything", "float32", False),
        ((1, 9, 130, 16), "everything", "float32", True),
        # A block of channels is all there are: rows end inside of what is copied as one piece.
        *(((70, 37, 64, 16), "mamba", "float32", r) for r in (False, True)),
        *(
            ((2, 11, 4, n), "everything", "float32", n % 2 == 0)
            for n in (1, 2, 8, 16, 31, 64, 69, 130)
        ),
        ((1, 500, 4, 69), "everything", "bfloat16", False),
    ],
    ids=str,
)
def test_equals_the_oracle(shape, options, dtype, reverse):
    check(mixed, inputs(shape, OPTIONS[options]), dtype, reverse=reverse)


@pytest.mark.parametrize("name", OPTIONS["everything"])
def test_each_option_alone(name):
    check(mixed, inputs(ODD, (name,)), reverse=False)


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="JAX takes these layouts from 0.12 on")
@pytest.mark.parametrize("shape", [ODD, LONG], ids=str)
def test_without_lane_semantics(shape, monkeypatch):
    monkeypatch.setattr(gpu.kernel, "_LOWERING", plgpu.LoweringSemantics.Warpgroup)
    check(mixed, inputs(shape, OPTIONS["everything"]), reverse=True)


def test_time_steps_without_softplus():
    arrays = inputs(ODD, ())
    arrays["delta"] = np.abs(arrays["delta"])
    check(mixed, arrays, reverse=False, softplus=False)


@pytest.mark.parametrize("reverse", [False, True])
def test_every_element_of_every_gradient(reverse):
    """Also under strong decay, where the largest element says nothing about the others."""
    strong.check_scan(mixed, reverse=reverse)


def layer(own=(), sets=1, dtype="float32"):
    """Return a layer's arguments, ``own`` with an axis of ``sets`` in front, and lengths."""
    arrays = inputs((4, 50, 128, 32), (*OPTIONS["mamba"], "lengths"))
    lengths = arrays.pop("lengths")
    scale = np.linspace(1, 1.5, sets)
    large = ("u", "delta", "B", "C", "z")
    return {
        k: jnp.asarray(
            np.multiply.outer(scale, x) if k in own else x, dtype if k in large else "float32"
        )
        for k, x in arrays.items()
    }, lengths


def scan(floats, lengths=None, **options):
    options |= {"lengths": lengths, "implementation": "pallas_gpu"}
    return selective_scan(**floats, delta_softplus=True, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "own", [("u", "delta", "A", "B", "C", "D", "z", "delta_bias"), (), ("delta", "A", "B", "C")]
)
def test_both_directions_in_one_launch(own, dtype):
    floats, lengths = layer(own, 2, dtype)

    def one_launch(floats):
        return bidirectional_scan(
            **floats, delta_softplus=True, lengths=lengths, implementation="pallas_gpu"
        )

    def two_launches(floats):
        each = ({k: x[d] if k in own else x for k, x in floats.items()} for d in (0, 1))
        return jnp.stack([scan(x, lengths, reverse=bool(d)) for d, x in enumerate(each)])

    check_same(one_launch, two_launches, (floats,), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vmap_takes_copies_as_further_sets(dtype):
    floats, lengths = layer(("u", "A"), 3, dtype)

    def mapped(floats):
        return jax.vmap(
            partial(scan, lengths=lengths),
            in_axes=({k: 0 if k in ("u", "A") else None for k in floats},),
        )(floats)

    def one_by_one(floats):
        copies = (floats | {k: floats[k][n] for k in ("u", "A")} for n in range(3))
        return jnp.stack([scan(copy, lengths) for copy in copies])

    check_same(mapped, one_by_one, (floats,), TOLERANCES[dtype])


def test_the_same_arrays_give_the_same_bits():
    floats, _ = layer()

    @jax.jit
    def both(floats):
        y, pull_back = jax.vjp(partial(scan, reverse=True), floats)
        return y, pull_back(jnp.ones_like(y))

    first, *others = (jax.tree.leaves(jax.device_get(both(floats))) for _ in range(3))
    for other in others:
        for x, y in zip(first, other, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("variant", ["echojax", "official"])
def test_a_model_has_the_vectors_and_gradients_of_fused(variant):
    config = with_sizes(Config(dropout=0.0, variant=variant, max_len=50, layers=2))
    rng = np.random.default_rng(0)
    lengths_B = rng.integers(1, 51, 64)
    ids_BxL = np.where(np.arange(50) < lengths_B[:, None], rng.integers(1, 300, (64, 50)), 0)
    tiled, params = nnx.split(build_model(dataclasses.replace(config, scan="tiled"), 300))
    kernels = nnx.graphdef(build_model(dataclasses.replace(config, scan="pallas_gpu"), 300))

    def encode(graphdef, params):
        return nnx.merge(graphdef, params).encode(ids_BxL, lengths_B)

    # GPUs round the factors of float32 products to ten bits unless told not to.
    with jax.default_matmul_precision("highest"):
        check_same(partial(encode, kernels), partial(encode, tiled), (params,), 1e-4)
