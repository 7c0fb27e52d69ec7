"""The Mosaic GPU kernels: interpreted, against the oracle; and lowered for CUDA as they are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selective_scan import gpu, selective_scan
from selective_scan.arguments import ScanInputs
from selective_scan.gpu.arrays import Cut, Options
from selective_scan.gpu.plans import MOST_STATES, Plan, segments_for
from tests.selective_scan.oracle import JAX_NAMES, OPTIONS, compare, inputs, run

SHAPES = {
    "one of each": (1, 1, 1, 1),
    "odd": (2, 37, 5, 3),
    "several channel blocks": (1, 9, 130, 16),
    "all channels in one block": (2, 11, 64, 3),
    "many states": (1, 11, 4, MOST_STATES + 5),
}


def interpreted(inputs, *, softplus, reverse, **options):
    """Run the kernels as plain JAX, with the options that are to be tried."""
    if not options:
        return gpu.scan(inputs, softplus=softplus, reverse=reverse, interpret=True)
    one = jax.tree.map(lambda x: x[None], inputs)
    options = Options(softplus, (reverse,), interpret=True, **options)
    return jax.tree.map(lambda x: x[0], gpu.scan_sets(one, options))


@pytest.mark.parametrize(
    ("options", "reverse"),
    [("plain", False), ("mamba", True), ("everything", False), ("everything", True)],
)
def test_options(options, reverse):
    arrays = inputs((3, 19, 5, 3), OPTIONS[options])
    compare(run(partial(interpreted, segments=1), arrays, jnp.float32, reverse), 1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes(shape):
    compare(run(interpreted, inputs(shape), jnp.float32, reverse=True), 1e-5)


@pytest.mark.parametrize(("segments", "reverse"), [(2, False), (5, True)])
def test_segments_side_by_side(segments, reverse):
    scan = partial(interpreted, segments=segments)
    compare(run(scan, inputs((2, 43, 3, 4)), jnp.float32, reverse), 1e-5)


@pytest.mark.parametrize("plan", [Plan(32, 16, 1), Plan(64, 24, 2), Plan(128, 4, 2)], ids=str)
def test_plans(plan):
    scan = partial(interpreted, plan=plan, segments=1)
    compare(run(scan, inputs((2, 21, 40, 12)), jnp.float32, reverse=False), 1e-5)


def test_bfloat16_inputs_keep_float32_states():
    scan = partial(interpreted, segments=3)
    pairs = run(scan, inputs((2, 9, 4, 3)), jnp.bfloat16, reverse=True)
    assert pairs["y"][0].dtype == jnp.bfloat16
    assert pairs["last_state"][0].dtype == jnp.float32
    compare(pairs, 2e-2)


@settings(max_examples=5, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 18), st.integers(1, 9), st.integers(1, 9)),
    reverse=st.booleans(),
    segments=st.sampled_from([1, 2]),
    seed=st.integers(0, 9),
)
def test_any_shape(shape, reverse, segments, seed):
    scan = partial(interpreted, segments=segments)
    compare(run(scan, inputs(shape, seed=seed), jnp.float32, reverse), 1e-5)


def test_time_steps_without_softplus():
    arrays = inputs((2, 9, 3, 2), ())
    arrays["delta"] = np.abs(arrays["delta"])
    args = ScanInputs(**{JAX_NAMES[k]: jnp.asarray(v, jnp.float32) for k, v in arrays.items()})

    def loss(scan, args):
        return jnp.sum(jnp.sin(scan(args)))

    kernel = partial(loss, lambda args: interpreted(args, softplus=False, reverse=False)[0])
    plain = partial(loss, lambda args: selective_scan(*args[:5], implementation="sequential"))
    ours, theirs = (jax.jit(jax.grad(scan))(args)[:5] for scan in (kernel, plain))
    for actual, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_very_small_time_steps_keep_their_precision():
    arrays = inputs((1, 6, 3, 2), ())
    arrays["delta"] = arrays["delta"] - 14
    compare(run(interpreted, arrays, jnp.float32, reverse=False), 1e-5)


def test_both_directions_in_one_launch():
    arrays = inputs((2, 21, 3, 4), OPTIONS["mamba"])
    one = {JAX_NAMES[k]: jnp.asarray(v, jnp.float32)[None] for k, v in arrays.items()}
    own = ("delta_BxLxE", "A_ExN", "B_BxLxN", "C_BxLxN")
    two = one | {k: jnp.concatenate([one[k], 1.5 * one[k]]) for k in own}
    lengths = jnp.array([[21, 8]])
    weights = np.random.default_rng(3).normal(size=(2, 2, 21, 3))

    def loss(scan, floats):
        y, last = scan(ScanInputs(**floats, lengths_B=lengths))
        return jnp.sum(y * weights) + jnp.sum(last**2), y

    def in_turn(both):
        runs = [
            interpreted(
                jax.tree.map(lambda x: x[d if len(x) == 2 else 0], both),  # noqa: B023
                softplus=True,
                reverse=bool(d),
            )
            for d in (0, 1)
        ]
        return jax.tree.map(lambda *x: jnp.stack(x), *runs)

    kernel = jax.jit(partial(gpu.scan_both, softplus=True, interpret=True))
    (_, y), grads = jax.jit(jax.value_and_grad(partial(loss, kernel), has_aux=True))(two)
    (_, plain_y), plain = jax.jit(jax.value_and_grad(partial(loss, in_turn), has_aux=True))(two)
    np.testing.assert_allclose(y, plain_y, rtol=1e-5, atol=1e-6)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, plain[name], rtol=1e-4, atol=1e-5, err_msg=name)
    same = kernel(ScanInputs(**one, lengths_B=lengths))[0]  # nothing is of one direction alone
    np.testing.assert_allclose(same[0], y[0], rtol=1e-5, atol=1e-6)
    backward = in_turn(ScanInputs(**one, lengths_B=lengths))[0][1]
    np.testing.assert_allclose(same[1], backward, rtol=1e-5, atol=1e-6)


def test_vmap_takes_copies_as_further_sets():
    arrays = inputs((2, 6, 3, 2), ())
    u, delta, A, B, C = (jnp.asarray(arrays[k], jnp.float32) for k in ("u", "delta", "A", "B", "C"))

    def kernel(u, A, B):
        args = ScanInputs(u, delta, A, B, C)
        return interpreted(args, softplus=True, reverse=True)[0]

    def plain(u, A, B):
        return selective_scan(
            u, delta, A, B, C, delta_softplus=True, reverse=True, implementation="sequential"
        )

    def mapped(scan):
        def loss(u, A, B):
            return jnp.sum(jnp.sin(scan(u, A, B)))

        grads = jax.vmap(jax.grad(loss, argnums=(0, 1, 2)), in_axes=(None, 0, None))
        nested = jax.vmap(jax.vmap(scan, in_axes=(0, None, None)), in_axes=(None, 0, 0))
        many, twice = jnp.stack([A, 2 * A, A / 2]), jnp.stack([u, -u])
        return jax.jit(
            lambda: (grads(u, many, B), nested(twice, many, jnp.stack([B, B + 1, B - 1])))
        )()

    for actual, expected in zip(
        jax.tree.leaves(mapped(kernel)), jax.tree.leaves(mapped(plain)), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("both", [False, True])
def test_vmap_of_the_backward_pass_alone(both):
    """As ``jax.jacrev`` does; 17 rows of two sets are cut into segments, those of four are not."""
    arrays = inputs((17, 64, 1, 1), ())
    named = {JAX_NAMES[k]: jnp.asarray(v, jnp.float32)[None] for k, v in arrays.items()}
    delta = named.pop("delta_BxLxE")
    if both:
        scan, delta = partial(gpu.scan_both, softplus=True), jnp.tile(delta, (2, 1, 1, 1))
    else:
        scan = partial(gpu.scan, softplus=True, reverse=True)
        named, delta = {k: x[0] for k, x in named.items()}, delta[0]

    def outputs(delta):
        return scan(ScanInputs(delta_BxLxE=delta, **named), interpret=True)[0]

    def pull_back(dy):
        return jax.vjp(outputs, delta)[1](dy)[0]

    shape = jax.eval_shape(outputs, delta).shape
    dy = jnp.asarray(np.random.default_rng(0).normal(size=(2, *shape)), jnp.float32)
    mapped, alone = jax.jit(jax.vmap(pull_back))(dy), jax.jit(pull_back)
    for found, one in zip(mapped, dy, strict=True):
        np.testing.assert_allclose(found, alone(one), rtol=1e-5, atol=1e-6)


def test_rows_are_cut_only_where_the_gpu_would_idle():
    assert segments_for(programs=4096, length=50, chunk=8) == 1
    assert segments_for(programs=256, length=16384, chunk=8) == 1
    assert segments_for(programs=2, length=16384, chunk=8) > 64
    assert segments_for(programs=2, length=20, chunk=8) == 1


@pytest.mark.parametrize(("channels", "positions"), [(64, 16), (40, 11), (128, 11)])
def test_what_is_stored_as_one_piece_ends_with_a_whole_chunk(channels, positions):
    """JAX copies one piece of memory without heeding where a row ends: seen on an H200."""
    arrays = inputs((2, 11, channels, 3), ())
    one = ScanInputs(**{JAX_NAMES[k]: jnp.asarray(v, jnp.float32)[None] for k, v in arrays.items()})
    cut = Cut(one, Options(True, (True,), plan=Plan(64, 8, 1)))
    assert cut.in_time_shape(jnp.float32)[0].shape[2] == positions
    assert cut.partial_shape()[0].shape[2] == 16


@pytest.mark.parametrize(
    ("shape", "options", "dtype"),
    [
        ((2048, 50, 128, 32), "mamba", "float32"),
        ((2048, 50, 128, 32), "mamba", "bfloat16"),
        ((8, 16384, 2048, 16), "plain", "bfloat16"),
        ((1, 5000, 256, 16), "everything", "float32"),
        ((3, 37, 5, 3), "everything", "bfloat16"),
    ],
    ids=str,
)
def test_kernels_lower_for_cuda(shape, options, dtype):
    """An API that changes under the kernels is seen without a GPU."""
    arrays = jax.eval_shape(lambda: {k: jnp.asarray(v) for k, v in small(options).items()})
    wide = dict(zip(small(options)["u"].shape, shape[:3], strict=True)) | {2: shape[3]}
    shapes = {
        k: jax.ShapeDtypeStruct(
            tuple(wide[n] for n in x.shape),
            x.dtype if k == "lengths" else (jnp.float32 if x.ndim < 3 else dtype),
        )
        for k, x in arrays.items()
    }
    args = ScanInputs(**{JAX_NAMES[k]: x for k, x in shapes.items()})

    def loss(args, lengths):
        y, last = gpu.scan(args._replace(lengths_B=lengths), softplus=True, reverse=True)
        return jnp.sum(y.astype(jnp.float32)) + jnp.sum(last)

    floats, lengths = args._replace(lengths_B=None), args.lengths_B
    for function, kernels in ((loss, 1), (jax.grad(loss), 2)):
        lowered = jax.jit(function).trace(floats, lengths).lower(lowering_platforms=("cuda",))
        assert lowered.as_text().count("@mosaic_gpu") >= kernels


def small(options):
    """Return arrays whose sizes tell their axes: 7 rows, 6 positions, 5 channels, 2 states."""
    return inputs((7, 6, 5, 2), OPTIONS[options])
