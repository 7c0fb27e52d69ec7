"""Every implementation against the oracle: values and gradients, all options, odd shapes."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selective_scan import (
    bidirectional_scan,
    selective_scan,
    selective_scan_gradients,
    selective_scan_readout,
    selective_scan_reference,
    selective_scan_step,
    tiled,
)
from selective_scan.arguments import with_epilogue
from selective_scan.xla import chunked
from tests.selective_scan.oracle import (
    EVERY_OPTION,
    NAMES,
    OPTIONS,
    SCANS,
    check,
    check_same,
    compare,
    float32,
    grouped,
    inputs,
)

IN_JAX = [name for name in NAMES if name != "reference"]


def slow_by_jax(name):
    """Return the marks of a case that the scans differentiated and mapped by JAX have in common."""
    return [pytest.mark.slow] * (name in ("associative", "chunked", "sequential"))


@pytest.mark.parametrize(
    ("name", "options", "reverse"),
    [
        # The same code does all other options around these scans; forward, they are compared with
        # the original below.
        pytest.param(name, *case, marks=slow_by_jax(name) if case != ("packed", True) else [])
        for name in NAMES
        for case in EVERY_OPTION
    ],
)
def test_float32_equals_the_oracle(name, options, reverse):
    check(SCANS[name], inputs((2, 37, 5, 3), OPTIONS[options]), reverse=reverse)


BY_KIND = [pytest.param(name, marks=slow_by_jax(name)) for name in NAMES]


@pytest.mark.parametrize("name", BY_KIND)
def test_bfloat16_inputs_keep_float32_states(name):
    check(SCANS[name], inputs((2, 9, 4, 3)), "bfloat16", reverse=True)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", BY_KIND)
def test_float64_stays_float64(name):
    check(SCANS[name], inputs((2, 19, 3, 4)), "float64", reverse=True)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["u", "C", "D", "z", "delta_bias", "initial_state"])
def test_one_input_in_float64_makes_the_states_float64(name):
    arrays = float32(inputs((2, 6, 3, 4)))
    given = arrays | {name: arrays[name].astype(np.float64)}
    state = given.pop("initial_state")
    options = {"delta_softplus": True, "return_last_state": True}
    _, exact = selective_scan_reference(**arrays, delta_softplus=True)
    for scan in ("auto", "tiled", "sequential", "chunked", "reference"):
        wanted = options | {"initial_state": state, "implementation": scan}
        _, last = selective_scan(**given, **wanted)
        assert last.dtype == np.float64
        np.testing.assert_allclose(last, exact, rtol=0, atol=1e-12)
        gradient = jax.grad(lambda u, **rest: selective_scan(u, **rest)[1].sum())
        rest = {key: x for key, x in given.items() if key != "u"}
        assert gradient(given["u"], **rest, **wanted).dtype == given["u"].dtype
    _, both = bidirectional_scan(**given, initial_state=jnp.stack([state, state]), **options)
    assert both.dtype == np.float64
    del given["lengths"]
    at = {key: x[:, 0] if key in ("u", "delta", "B", "C", "z") else x for key, x in given.items()}
    _, after = selective_scan_step(state, **at, delta_softplus=True)
    assert after.dtype == np.float64


def test_a_step_takes_lists():
    arrays = inputs((2, 1, 3, 4), ())
    at = {key: x[:, 0] if key != "A" else x for key, x in arrays.items()}
    lists = {key: x.tolist() for key, x in at.items()}
    state = np.zeros((2, 3, 4), np.float32)
    for ours, theirs in zip(
        selective_scan_step(state, **lists), selective_scan_step(state, **float32(at)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 18), st.integers(1, 3), st.integers(1, 3)),
    name=st.sampled_from(IN_JAX),
    reverse=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_shape(shape, name, reverse, seed):
    check(SCANS[name], inputs(shape, seed=seed), reverse=reverse)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "case"),
    [
        *((name, "scan_B2_L7_D4_N3") for name in NAMES),
        *(pytest.param(name, "scan_B3_L50_D128_N32", marks=slow_by_jax(name)) for name in NAMES),
    ],
)
def test_equals_the_original(golden, name, case):
    numbers = golden(case)
    wide = {k[3:]: v.astype(np.float64) for k, v in numbers.items() if k.startswith("in_")}
    in_time = {k: wide[k].swapaxes(1, 2) for k in ("u", "delta", "B", "C", "z")}
    arrays = in_time | {k: wide[k] for k in ("A", "D", "delta_bias")}

    def loss(arrays):
        options = {"return_last_state": True, "implementation": name}
        y, last = selective_scan(**arrays, delta_softplus=True, **options)
        return jnp.sum(y * wide["R"].swapaxes(1, 2)), (y, last)

    (_, (y, last)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)
    np.testing.assert_allclose(y.swapaxes(1, 2), numbers["f64_out"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(last, numbers["f64_last_state"], rtol=1e-9, atol=1e-9)
    for key, grad in grads.items():
        grad = grad.swapaxes(1, 2) if key in in_time else grad
        expected = numbers[f"f64_grad_{key}"]
        assert np.max(np.abs(grad - expected)) < 1e-7 * np.max(np.abs(expected)), key


# Groups of channels and, as None, what stays the same at all times.
BOTH_KINDS = {"B": 2, "C": None}
SAME = {"B": None, "C": None}


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        *(pytest.param(name, BOTH_KINDS, marks=slow_by_jax(name)) for name in NAMES),
        # What the kernels do of it is the same code around both.
        pytest.param("pallas_gpu", BOTH_KINDS, marks=pytest.mark.slow),
        ("pallas_tpu", BOTH_KINDS),
        *(pytest.param(name, SAME, marks=slow_by_jax(name)) for name in IN_JAX),
        ("tiled", {"B": 4, "C": 2}),
        *(pytest.param("tiled", g, marks=pytest.mark.slow) for g in ({"C": 2}, {"B": None})),
    ],
)
def test_groups_and_what_stays_the_same(name, groups):
    arrays = grouped(inputs((2, 7, 4, 3), OPTIONS["packed"]), groups)
    check(SCANS[name], arrays, reverse=True)


def test_groups_by_the_public_functions():
    arrays = float32(grouped(inputs((2, 7, 4, 3), OPTIONS["mamba"]), BOTH_KINDS))
    twice = arrays | {"B": jnp.stack([arrays["B"]] * 2)}
    both = jax.jit(partial(bidirectional_scan, delta_softplus=True))(**twice)
    for direction, y in enumerate(both):
        options = {"delta_softplus": True, "reverse": bool(direction)}
        expected, _ = selective_scan_reference(**arrays, **options)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    arrays, both = jax.tree.map(np.asarray, (arrays, both))
    first = {k: x[:, 0] if k in ("u", "delta", "z", "B") else x for k, x in arrays.items()}
    first["C"] = np.broadcast_to(arrays["C"], (2, 4, 3))
    step = jax.jit(partial(selective_scan_step, delta_softplus=True))
    y, _ = step(jnp.zeros((2, 4, 3)), **first)
    np.testing.assert_allclose(y, both[0][:, 0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"its groups, 3, do not divide the 4 channels of u"):
        selective_scan(**arrays | {"B": jnp.ones((2, 7, 3, 3))})


@pytest.mark.parametrize("groups", [{}, BOTH_KINDS, {"B": None, "C": 1}])
def test_oracle_gradients_equal_finite_differences(groups):
    arrays = grouped(inputs((2, 4, 2, 2), OPTIONS["packed"], seed=1), groups)
    options = {k: arrays.pop(k) for k in ("lengths", "segment_ids")} | {"delta_softplus": True}
    rng = np.random.default_rng(1)
    dy, dlast = rng.normal(size=(2, 4, 2)), rng.normal(size=(2, 2, 2))

    def loss(arrays):
        y, last = selective_scan_reference(**arrays, **options)
        return np.sum(y * dy) + np.sum(last * dlast)

    grads = selective_scan_gradients(dy, dlast, **arrays, **options)
    for name, array in arrays.items():
        for place in np.ndindex(array.shape):
            moved = array.copy()
            moved[place] += 1e-6
            ahead = loss(arrays | {name: moved})
            moved[place] -= 2e-6
            difference = (ahead - loss(arrays | {name: moved})) / 2e-6
            np.testing.assert_allclose(grads[name][place], difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("tiled", (1, 1, 1, 1)),
        ("tiled", (3, 11, 4, 3)),
        ("tiled", (70, 9, 130, 2)),
        ("sequential", (3, 11, 4, 3)),  # as all others: the scan, read at one position
        pytest.param("associative", (3, 11, 4, 3), marks=pytest.mark.slow),
        pytest.param("chunked", (3, 11, 4, 3), marks=pytest.mark.slow),
    ],
)
def test_readout_equals_the_scan_at_its_last_position(name, reverse, shape):
    rng = np.random.default_rng(2)
    start = rng.integers(0, shape[1], shape[0])
    check_readout(name, reverse, shape, start, rng.integers(start + 1, shape[1] + 1))


@pytest.mark.parametrize("reverse", [pytest.param(False, marks=pytest.mark.slow), True])
def test_readout_of_long_rows_without_padding(reverse):
    check_readout("tiled", reverse, (2, 300, 70, 2), np.zeros(2, int), np.full(2, 300))


def check_readout(name, reverse, shape, start, stop):
    """Compare the read-out of ranges of rows, and its gradients, with the oracle."""
    arrays = inputs(shape, ("delta_bias", "initial_state"))
    batch, length, channels, _ = shape
    dy = np.random.default_rng(3).normal(size=(batch, channels))
    C_BxN = arrays["C"][np.arange(batch), start if reverse else stop - 1]
    floats = float32(arrays | {"C": C_BxN})
    options = {"start": start, "stop": stop, "reverse": reverse, "implementation": name}

    def loss(floats):
        y = selective_scan_readout(**floats, delta_softplus=True, **options)
        return jnp.sum(y * dy), y

    (_, y), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(floats)
    rounded = {k: np.float32(x) for k, x in arrays.items()}
    place_L = np.arange(length)
    outside_BxL = (place_L < start[:, None]) | (place_L >= stop[:, None])
    rounded["delta"][outside_BxL] = -np.inf  # whose softplus, the time step, is 0
    options = {"delta_softplus": True, "reverse": reverse}
    _, last = selective_scan_reference(**rounded, **options)
    dlast = dy[..., None] * np.float32(C_BxN)[:, None]
    expected = selective_scan_gradients(np.zeros(shape[:3]), dlast, **rounded, **options)
    expected["C"] = np.einsum("ben,be->bn", last, dy)
    pairs = {"y": (y, np.einsum("ben,bn->be", last, np.float32(C_BxN)))}
    compare(pairs | {k: (grads[k], expected[k]) for k in grads}, 2e-5)


@pytest.mark.parametrize("name", BY_KIND)
def test_vmap_and_checkpoint(name):
    u, delta, A, B, C = float32(inputs((4, 6, 2, 3), ())).values()
    scan = jax.checkpoint(partial(selective_scan, delta_softplus=True, implementation=name))

    def plain(u, delta, B, C):
        return scan(u, delta, A, B, C)

    def rows(u, delta, B, C):
        row = lambda *one: plain(*(x[None] for x in one))[0]  # noqa: E731
        return jax.vmap(row)(u, delta, B, C)

    check_same(rows, plain, (u, delta, B, C), 1e-5)

    def gradients(*row):
        return jax.grad(lambda *row: jnp.sum(jnp.sin(plain(*row))), (0, 1, 2, 3))(*row)

    mapped = jax.jit(jax.vmap(gradients))(*(x[:, None] for x in (u, delta, B, C)))
    for actual, expected in zip(mapped, jax.jit(gradients)(u, delta, B, C), strict=True):
        np.testing.assert_allclose(actual[:, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "groups"), [("tiled", {}), ("chunked", {}), ("auto", SAME)])
def test_states_of_all_positions_are_never_held(name, groups):
    shape = batch, length, channels, states = (2, 4096, 16, 16)

    def loss(floats):
        return jnp.sum(selective_scan(**floats, delta_softplus=True, implementation=name))

    floats = float32(grouped(inputs(shape, ("D", "z")), groups))
    memory = jax.jit(jax.grad(loss)).lower(floats).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * batch * length * channels * states


def test_any_number_of_states_is_summed_up():
    for states in (1, 64, 65):
        q_rxNxE = np.random.default_rng(0).normal(size=(2, states, 3))
        found = tiled._sum_over_states(jnp.asarray(q_rxNxE, jnp.float32))
        np.testing.assert_allclose(found, q_rxNxE.sum(axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_histories_equal_each_in_a_row_of_its_own(reverse):
    """Also where one is a single position, and where ids come again."""
    arrays = float32(inputs((1, 9, 3, 4), OPTIONS["mamba"]))
    ids, ends = jnp.array([[3, 3, 3, 3, 0, 7, 7, 3, 3]]), (0, 4, 5, 7, 9)
    options = {"delta_softplus": True, "reverse": reverse}
    packed = jax.jit(partial(selective_scan, **options))(**arrays, segment_ids=ids)
    arrays, packed = jax.tree.map(np.asarray, (arrays, packed))
    for first, end in pairwise(ends):
        own = {k: x[:, first:end] if x.ndim == 3 else x for k, x in arrays.items()}
        y, _ = selective_scan_reference(**own, **options)
        np.testing.assert_allclose(packed[:, first:end], y, rtol=1e-5, atol=1e-6)


def test_step_by_step_equals_the_scan():
    arrays = float32(inputs((2, 6, 3, 4), ("D", "z", "delta_bias")))
    whole, step = (
        jax.jit(partial(function, delta_softplus=True))
        for function in (selective_scan, selective_scan_step)
    )
    whole, state = np.asarray(whole(**arrays)), np.zeros((2, 3, 4), np.float32)
    arrays = jax.tree.map(np.asarray, arrays)
    for position in range(6):
        event = {k: x[:, position] if x.ndim == 3 else x for k, x in arrays.items()}
        y, state = step(state, **event)
        np.testing.assert_allclose(y, whole[:, position], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 5])
def test_chunks_of_any_length_equal_the_oracle(chunk):
    scan = with_epilogue(partial(chunked, chunk=chunk))
    check(scan, inputs((2, 37, 5, 3)), reverse=True)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["associative", "chunked", "sequential"])
def test_forward_mode_equals_finite_differences(name):
    arrays = inputs((2, 5, 3, 2), ("D", "z", "delta_bias", "initial_state"))
    rng = np.random.default_rng(3)
    along = {k: rng.normal(size=v.shape) for k, v in arrays.items()}

    @jax.jit
    def scan(arrays):
        scans = (partial(selective_scan, reverse=reverse) for reverse in (False, True))
        options = {"delta_softplus": True, "implementation": name}
        return jnp.stack([scan(**arrays, **options) for scan in scans])

    _, dy = jax.jvp(scan, (arrays,), (along,))
    ahead, behind = (scan({k: arrays[k] + h * along[k] for k in arrays}) for h in (1e-6, -1e-6))
    np.testing.assert_allclose(dy, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", BY_KIND)
def test_both_directions_equal_one_after_the_other(name):
    arrays = float32(inputs((2, 7, 3, 4), (*OPTIONS["mamba"], "initial_state")))
    own = {k: jnp.stack([arrays[k], 1.5 * arrays[k]]) for k in ("delta", "A", "B", "C", "D")}
    own["initial_state"] = jnp.stack([arrays["initial_state"], -arrays["initial_state"]])
    options = {"delta_softplus": True, "lengths": np.array([7, 4])}
    options["segment_ids"] = np.array([[0, 0, 0, 1, 1, 2, 2]] * 2)
    last = {"return_last_state": True, "implementation": name}
    both = jax.jit(partial(bidirectional_scan, **options, **last))(**arrays | own)
    arrays, own, both = jax.tree.map(np.asarray, (arrays, own, both))
    for direction in (0, 1):
        of_one = arrays | {k: x[direction] for k, x in own.items()}
        expected = selective_scan_reference(**of_one, reverse=bool(direction), **options)
        for actual, wanted in zip(both, expected, strict=True):
            np.testing.assert_allclose(actual[direction], wanted, rtol=1e-5, atol=1e-6)
