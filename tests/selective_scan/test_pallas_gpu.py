"""The Mosaic GPU kernels: interpreted, against the oracle; and lowered for CUDA as they are."""

from functools import partial
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import mosaic_gpu as plgpu

from selective_scan import gpu, selective_scan
from selective_scan.arguments import ScanInputs, direction_of
from selective_scan.gpu import kernel
from selective_scan.gpu.arrays import Cut, Options
from selective_scan.gpu.plans import MOST_STATES, Plan, segments_for
from tests.selective_scan.oracle import (
    FEW_OPTIONS,
    OPTIONS,
    SCANS,
    check,
    check_same,
    compare,
    float32,
    inputs,
)

SHAPES = {
    "one of each": (1, 1, 1, 1),
    "several channel blocks": (1, 9, 130, 16),
    "all channels in one block": (2, 11, 64, 3),
    "many states": (1, 11, 4, MOST_STATES + 5),
}


interpreted = partial(gpu.scan, interpret=True)  # as plain JAX


@pytest.mark.parametrize(("options", "reverse"), FEW_OPTIONS)
def test_options(options, reverse):
    arrays = inputs((3, 19, 5, 3), OPTIONS[options])
    check(partial(interpreted, segments=1), arrays, reverse=reverse)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(shape, id=name, marks=[pytest.mark.slow] * ("all channels" in name))
        for name, shape in SHAPES.items()
    ],
)
def test_shapes(shape):
    check(interpreted, inputs(shape), reverse=True)


@pytest.mark.parametrize(
    ("segments", "reverse"), [pytest.param(2, False, marks=pytest.mark.slow), (5, True)]
)
def test_segments_side_by_side(segments, reverse):
    scan = partial(interpreted, segments=segments)
    check(scan, inputs((2, 43, 3, 4), OPTIONS["packed"]), reverse=reverse)


@pytest.mark.parametrize(
    ("plan", "softplus"),
    [
        pytest.param(Plan(32, 16, 1), True, marks=pytest.mark.slow),
        pytest.param(Plan(64, 24, 2), True, marks=pytest.mark.slow),
        (Plan(128, 4, 2), False),
    ],
    ids=str,
)
def test_plans(plan, softplus):
    arrays = inputs((2, 21, 40, 12))
    if not softplus:  # time steps are given as they are, all above 0
        arrays |= {k: np.abs(arrays[k]) for k in ("delta", "delta_bias")}
    scan = partial(interpreted, plan=plan, segments=1)
    check(scan, arrays, reverse=False, softplus=softplus)


def test_bfloat16_inputs_keep_float32_states():
    scan = partial(interpreted, segments=3)
    check(scan, inputs((2, 9, 4, 3), OPTIONS["packed"]), "bfloat16", reverse=True)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 18), st.integers(1, 9), st.integers(1, 9)),
    reverse=st.booleans(),
    segments=st.sampled_from([1, 2]),
    seed=st.integers(0, 9),
)
def test_any_shape(shape, reverse, segments, seed):
    scan = partial(interpreted, segments=segments)
    check(scan, inputs(shape, seed=seed), reverse=reverse)


@pytest.mark.slow
def test_without_the_last_state_the_rest_is_the_same():
    arrays = float32(inputs((2, 19, 5, 3)))
    lengths = arrays.pop("lengths")

    def values(last, arrays):
        given = ScanInputs(**arrays, lengths=lengths)
        return interpreted(given, softplus=True, reverse=True, segments=2, last=last)[0]

    @jax.jit
    def both(arrays):
        pairs = [jax.vjp(partial(values, last), arrays) for last in (True, False)]
        return [(y, pull_back(y)) for y, pull_back in pairs]

    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), *both(arrays))


def test_both_directions_in_one_launch():
    shared = {k: x[None] for k, x in float32(inputs((2, 21, 3, 4), OPTIONS["mamba"])).items()}
    own = {k: jnp.concatenate([shared[k], 1.5 * shared[k]]) for k in ("delta", "A", "B", "C")}
    whole = {"lengths": jnp.array([[21, 8]])}
    whole["segment_ids"] = jnp.broadcast_to(jnp.arange(21) // 6, (1, 2, 21))

    def one_launch(arrays):
        return gpu.scan_both(ScanInputs(**arrays, **whole), softplus=True, interpret=True)

    def in_turn(arrays):
        both = ScanInputs(**arrays, **whole)
        plain = partial(SCANS["sequential"], softplus=True)
        runs = [plain(direction_of(both, d), reverse=bool(d)) for d in (0, 1)]
        return jax.tree.map(lambda *x: jnp.stack(x), *runs)

    check_same(one_launch, in_turn, (shared | own,), 2e-5)
    y, last = jax.jit(one_launch)(shared)  # nothing is of one direction only
    compare({"y": (y, np.float64(jax.jit(in_turn)(shared)[0]))}, 2e-5)
    assert last.shape == (2, 2, 3, 4)


def test_vmap_takes_copies_as_further_sets():
    u, delta, A, B, C = float32(inputs((2, 6, 3, 2), ())).values()

    def ids_of(u):  # mapped where u is
        return {"segment_ids": jnp.int32(u[..., 0] > 0)}

    def kernel(u, A, B):
        given = ScanInputs(u, delta, A, B, C, **ids_of(u))
        return interpreted(given, softplus=True, reverse=True)[0]

    def plain(u, A, B):
        options = {"delta_softplus": True, "reverse": True, "implementation": "sequential"}
        return selective_scan(u, delta, A, B, C, **ids_of(u), **options)

    def mapped(scan, u, A, B):
        return jax.vmap(jax.vmap(scan, in_axes=(0, None, None)), in_axes=(None, 0, 0))(u, A, B)

    # The backward pass takes copies of A only, the nested forward pass of all three.
    many = jnp.stack([A, 2 * A, A / 2])
    copies = jnp.stack([u, -u]), many, jnp.stack([B, B + 1, B - 1])
    check_same(partial(mapped, kernel), partial(mapped, plain), copies, 1e-4)
    of_A = lambda scan, A: jax.vmap(scan, in_axes=(None, 0, None))(u, A, B)  # noqa: E731
    check_same(partial(of_A, kernel), partial(of_A, plain), (many,), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("both", [False, True])
def test_vmap_of_the_backward_pass_alone(both):
    """As ``jax.jacrev`` does; 33 rows of two sets are cut into segments, those of four are not."""
    arrays = float32(inputs((33, 64, 1, 1), ()))
    scan = partial(interpreted, softplus=True, reverse=True)
    if both:
        scan = partial(gpu.scan_both, softplus=True, interpret=True)
        arrays = {k: x[None] for k, x in arrays.items()}
        arrays["delta"] = jnp.tile(arrays["delta"], (2, 1, 1, 1))
    delta = arrays.pop("delta")

    @jax.jit
    def pulled_back(delta):
        y, pull_back = jax.vjp(lambda delta: scan(ScanInputs(delta=delta, **arrays))[0], delta)
        dy = jnp.float32(np.random.default_rng(0).normal(size=(2, *y.shape)))
        return jax.vmap(pull_back)(dy)[0], jnp.stack([pull_back(one)[0] for one in dy])

    np.testing.assert_allclose(*pulled_back(delta), rtol=1e-5, atol=1e-6)


def test_rows_are_cut_only_where_the_gpu_would_idle():
    assert segments_for(programs=4096, length=50, chunk=8) == 1
    assert segments_for(programs=132, length=16384, chunk=8) == 1
    assert segments_for(programs=131, length=16384, chunk=8) == 2
    assert segments_for(programs=2, length=16384, chunk=8) > 64
    assert segments_for(programs=2, length=20, chunk=8) == 1


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1536, 2048, 2560, 4096, 5120])
def test_a_small_batch_of_a_wide_model_fills_the_gpu(batch, channels):
    shape = {"u": (batch, 2048, channels), "A": (channels, 16)}
    arrays = {name: jax.ShapeDtypeStruct((1, *size), jnp.float32) for name, size in shape.items()}
    given = ScanInputs(arrays["u"], arrays["u"], arrays["A"], arrays["u"], arrays["u"])
    assert Cut(given, Options(True, (False,))).blocks.programs >= 132


@pytest.mark.parametrize(("channels", "positions"), [(64, 16), (40, 11), (128, 11)])
def test_what_is_stored_as_one_piece_ends_with_a_whole_chunk(channels, positions):
    """JAX copies one piece of memory without heeding where a row ends: seen on an H200."""
    arrays = float32(inputs((2, 11, channels, 3), ()))
    one = ScanInputs(**{k: x[None] for k, x in arrays.items()})
    cut = Cut(one, Options(True, (True,), plan=Plan(64, 8, 1)))
    assert cut.in_time_shape(jnp.float32)[0].shape[2] == positions
    assert cut.partial_shape()[0].shape[2] == 16


@pytest.mark.parametrize(
    ("shape", "options", "dtype"),
    [
        ((2048, 50, 128, 32), "mamba", "float32"),
        pytest.param((2048, 50, 128, 32), "mamba", "bfloat16", marks=pytest.mark.slow),
        pytest.param((8, 16384, 2048, 16), "plain", "bfloat16", marks=pytest.mark.slow),
        pytest.param((1, 5000, 256, 16), "everything", "float32", marks=pytest.mark.slow),
        pytest.param((3, 37, 5, 3), "everything", "bfloat16", marks=pytest.mark.slow),
        ((1, 5000, 64, 32), "packed", "bfloat16"),
    ],
    ids=str,
)
def test_kernels_lower_for_cuda(shape, options, dtype):
    """An API that changes under the kernels is seen without a GPU."""
    check_lowering(shape, options, dtype)


@pytest.mark.usefixtures("x64")
def test_kernels_lower_for_cuda_where_float64_is_switched_on():
    check_lowering((1, 9, 3, 4), "packed", "float32")


@pytest.mark.slow
@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="JAX takes these layouts from 0.12 on")
def test_kernels_lower_without_lane_semantics(monkeypatch):
    monkeypatch.setattr(gpu.kernel, "_LOWERING", plgpu.LoweringSemantics.Warpgroup)
    check_lowering((2048, 50, 128, 32), "packed", "bfloat16")


def check_lowering(shape, options, dtype):
    batch, length, channels, states = shape
    sizes = {7: batch, 6: length, 5: channels, 2: states}  # of ``small``, which tell their axes
    small = inputs((7, 6, 5, 2), OPTIONS[options])
    args = {
        k: jax.ShapeDtypeStruct(
            tuple(sizes[n] for n in x.shape),
            x.dtype if x.dtype == jnp.int32 else jnp.float32 if x.ndim < 3 else dtype,
        )
        for k, x in small.items()
    }

    def loss(args):
        y, last = gpu.scan(ScanInputs(**args), softplus=True, reverse=True)
        return jnp.sum(y.astype(jnp.float32)) + jnp.sum(last)

    for function, kernels in ((loss, 1), (jax.grad(loss, allow_int=True), 2)):
        lowered = jax.jit(function).trace(args).lower(lowering_platforms=("cuda",))
        assert lowered.as_text().count("@mosaic_gpu") >= kernels


@pytest.fixture
def as_compiled(monkeypatch):
    """Run the kernels that are compiled for a card, by JAX's interpreter, which finds races."""
    if not hasattr(plgpu, "InterpretGPUParams"):
        pytest.skip("this JAX does not interpret Mosaic GPU")
    callbacks = import_module("jax._src.pallas.mosaic_gpu.interpret.gpu_callbacks")
    copy = callbacks.copy_smem_to_gmem

    def copy_where(*, predicate, token, **rest):
        copied = predicate is None or bool(predicate)
        return copy(predicate=None, token=token, **rest) if copied else token

    # The interpreter refuses the predicate that JAX's own pipeline gives.
    monkeypatch.setattr(callbacks, "copy_smem_to_gmem", copy_where)
    monkeypatch.setattr(
        kernel, "lowered_later", lambda _platform, run, _like, *arrays: run(*arrays)
    )
    with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=True)):
        yield callbacks


@pytest.mark.parametrize(
    ("options", "shape", "segments", "dtype", "tolerance"),
    [
        ("packed", (2, 19, 3, 4), 1, "float32", 1e-5),
        pytest.param("everything", (2, 43, 5, 3), 2, "float32", 1e-5, marks=pytest.mark.slow),
        pytest.param("plain", (1, 9, 130, 16), 1, "bfloat16", 3e-2, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "reverse", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["forward", "reverse"]
)
@pytest.mark.usefixtures("as_compiled")
def test_compiled_kernels_have_no_race(options, shape, segments, dtype, tolerance, reverse):
    scan = partial(gpu.scan, segments=segments)
    check(scan, inputs(shape, OPTIONS[options]), dtype, reverse=reverse, tolerance=tolerance)


@pytest.mark.slow
def test_a_race_is_found(as_compiled, monkeypatch):
    scan = partial(gpu.scan, softplus=True, reverse=False, segments=1)
    arrays = ScanInputs(**float32(inputs((1, 43, 3, 4), OPTIONS["plain"])))
    jax.block_until_ready(scan(arrays))
    # Chunks are written to where an earlier one may still be read from.
    monkeypatch.setattr(as_compiled, "wait_smem_to_gmem", lambda *, token, **_: token)
    jax.clear_caches()
    with pytest.raises(Exception, match=r"(?i)race"):
        jax.block_until_ready(scan(arrays))
