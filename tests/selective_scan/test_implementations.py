"""Every implementation against the oracle: values and gradients, all options, odd shapes."""

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
)
from selective_scan.dispatch import scan_named
from tests.selective_scan.oracle import JAX_NAMES, NAMES, OPTIONS, SCANS, compare, inputs, run


@pytest.mark.parametrize(
    ("options", "reverse"),
    [("plain", False), ("mamba", True), ("everything", False), ("everything", True)],
)
@pytest.mark.parametrize("name", NAMES)
def test_float32_equals_the_oracle(name, options, reverse):
    compare(run(SCANS[name], inputs((2, 37, 5, 3), OPTIONS[options]), jnp.float32, reverse), 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_inputs_keep_float32_states(name):
    pairs = run(SCANS[name], inputs((2, 9, 4, 3)), jnp.bfloat16, reverse=True)
    assert pairs["y"][0].dtype == jnp.bfloat16
    assert pairs["last_state"][0].dtype == jnp.float32
    compare(pairs, 2e-2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", NAMES)
def test_float64_stays_float64(name):
    pairs = run(SCANS[name], inputs((2, 19, 3, 4)), jnp.float64, reverse=True)
    assert all(actual.dtype == jnp.float64 for actual, _ in pairs.values())
    compare(pairs, 1e-12)


@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 18), st.integers(1, 3), st.integers(1, 3)),
    name=st.sampled_from([name for name in NAMES if name != "reference"]),
    reverse=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_shape(shape, name, reverse, seed):
    compare(run(SCANS[name], inputs(shape, seed=seed), jnp.float32, reverse), 1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", ["scan_B2_L7_D4_N3", "scan_B3_L50_D128_N32"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_original(golden, name, case):
    numbers = golden(case)
    wide = {k[3:]: v.astype(np.float64) for k, v in numbers.items() if k.startswith("in_")}
    in_time = {k: wide[k].swapaxes(1, 2) for k in ("u", "delta", "B", "C", "z")}
    arrays = in_time | {k: wide[k] for k in ("A", "D", "delta_bias")}

    def loss(arrays):
        named = {JAX_NAMES[k]: v for k, v in arrays.items()}
        y, last = selective_scan(
            **named, delta_softplus=True, return_last_state=True, implementation=name
        )
        return jnp.sum(y * wide["R"].swapaxes(1, 2)), (y, last)

    (_, (y, last)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)
    np.testing.assert_allclose(y.swapaxes(1, 2), numbers["f64_out"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(last, numbers["f64_last_state"], rtol=1e-9, atol=1e-9)
    for key, grad in grads.items():
        grad = grad.swapaxes(1, 2) if key in in_time else grad
        expected = numbers[f"f64_grad_{key}"]
        assert np.max(np.abs(grad - expected)) < 1e-7 * np.max(np.abs(expected)), key


def test_oracle_gradients_equal_finite_differences():
    arrays = inputs((2, 4, 2, 2))
    lengths = arrays.pop("lengths")
    rng = np.random.default_rng(1)
    dy, dlast = rng.normal(size=(2, 4, 2)), rng.normal(size=(2, 2, 2))

    def loss(arrays):
        y, last = selective_scan_reference(**arrays, delta_softplus=True, lengths=lengths)
        return np.sum(y * dy) + np.sum(last * dlast)

    grads = selective_scan_gradients(dy, dlast, **arrays, delta_softplus=True, lengths=lengths)
    for name, array in arrays.items():
        for place in np.ndindex(array.shape):
            moved = array.copy()
            moved[place] += 1e-6
            ahead = loss(arrays | {name: moved})
            moved[place] -= 2e-6
            difference = (ahead - loss(arrays | {name: moved})) / 2e-6
            np.testing.assert_allclose(grads[name][place], difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "reference"])
@pytest.mark.parametrize("shape", [(3, 11, 4, 3), (1, 1, 1, 1), (70, 9, 130, 2)])
def test_readout_equals_the_scan_at_its_last_position(name, reverse, shape):
    rng = np.random.default_rng(2)
    start = rng.integers(0, shape[1], shape[0])
    check_readout(name, reverse, shape, start, rng.integers(start + 1, shape[1] + 1))


@pytest.mark.parametrize("reverse", [False, True])
def test_readout_of_long_rows_without_padding(reverse):
    check_readout("fused", reverse, (2, 300, 70, 2), np.zeros(2, int), np.full(2, 300))


def check_readout(name, reverse, shape, start, stop):
    """Compare the read-out of ranges of rows, and its gradients, with the oracle."""
    arrays = inputs(shape)
    batch = shape[0]
    rng = np.random.default_rng(3)
    dy = rng.normal(size=(batch, shape[2]))
    last = start if reverse else stop - 1
    keys = ("u", "delta", "A", "B", "delta_bias", "initial_state")
    floats = {k: jnp.asarray(arrays[k], jnp.float32) for k in keys}
    C = jnp.asarray(arrays["C"][np.arange(batch), last], jnp.float32)

    def loss(floats, C):
        named = {JAX_NAMES[k]: v for k, v in floats.items()}
        y = selective_scan_readout(
            **named,
            C_BxN=C,
            delta_softplus=True,
            start_B=start,
            stop_B=stop,
            reverse=reverse,
            implementation=name,
        )
        return jnp.sum(y * dy), y

    (_, y), (grads, dC) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(floats, C)
    pairs = by_rows(arrays, start, stop, dy, reverse)
    pairs["y"] = (y, pairs["y"])
    pairs["C"] = (dC, pairs["C"])
    compare(pairs | {k: (grads[k], pairs[k]) for k in grads}, 2e-5)


def by_rows(arrays, start, stop, dy, reverse):
    """Return the read-out's value and gradients by the oracle, one row's range at a time."""
    total = {k: np.zeros_like(v) for k, v in arrays.items() if k not in ("lengths", "D", "z", "C")}
    total["y"], total["C"] = np.zeros_like(dy), np.zeros((len(dy), arrays["C"].shape[2]))
    for b, (first, end) in enumerate(zip(start, stop, strict=True)):
        row = {k: np.float32(arrays[k][b : b + 1, first:end]) for k in ("u", "delta", "B", "C")}
        row |= {k: np.float32(arrays[k]) for k in ("A", "delta_bias")}
        row["initial_state"] = np.float32(arrays["initial_state"][b : b + 1])
        place = 0 if reverse else end - first - 1
        options = {"delta_softplus": True, "reverse": reverse}
        total["y"][b] = selective_scan_reference(**row, **options)[0][0, place]
        outer = np.zeros((1, end - first, dy.shape[1]))
        outer[0, place] = dy[b]
        grads = selective_scan_gradients(outer, 0 * row["initial_state"], **row, **options)
        for k in ("u", "delta", "B"):
            total[k][b, first:end] = grads[k][0]
        total["C"][b] = grads["C"][0, place]
        total["initial_state"][b] = grads["initial_state"][0]
        for k in ("A", "delta_bias"):
            total[k] += grads[k]
    return total


@pytest.mark.parametrize("name", NAMES)
def test_vmap_and_checkpoint(name):
    arrays = inputs((4, 6, 2, 3), ())
    u, delta, A, B, C = (jnp.asarray(arrays[k], jnp.float32) for k in ("u", "delta", "A", "B", "C"))
    delta = jnp.abs(delta)
    scan = jax.checkpoint(lambda *args: selective_scan(*args, implementation=name))

    def rows(u, delta, B, C):
        row = lambda u, d, B, C: scan(u[None], d[None], A, B[None], C[None])[0]  # noqa: E731
        return jax.vmap(row)(u, delta, B, C)

    def gradients(scan):
        return jax.grad(lambda *args: jnp.sum(jnp.sin(scan(*args))), (0, 1, 2, 3))

    plain = lambda u, delta, B, C: scan(u, delta, A, B, C)  # noqa: E731
    one = jax.jit(gradients(plain))
    alone = [one(*(x[b : b + 1] for x in (u, delta, B, C))) for b in range(4)]
    expected = jax.tree.map(lambda *x: jnp.concatenate(x), *alone)
    np.testing.assert_allclose(jax.jit(rows)(u, delta, B, C), plain(u, delta, B, C), 1e-5, 1e-6)
    of_mapped = jax.jit(gradients(rows))(u, delta, B, C)
    mapped = jax.jit(jax.vmap(gradients(plain)))(*(x[:, None] for x in (u, delta, B, C)))
    for one, other, wanted in zip(of_mapped, mapped, expected, strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(other[:, 0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["fused", "chunked"])
def test_states_of_all_positions_are_never_held(name):
    shape = batch, length, channels, states = (2, 4096, 16, 16)
    floats = {k: jnp.asarray(v, jnp.float32) for k, v in inputs(shape, ("D", "z")).items()}

    def loss(floats):
        named = {JAX_NAMES[k]: v for k, v in floats.items()}
        return jnp.sum(selective_scan(**named, delta_softplus=True, implementation=name))

    memory = jax.jit(jax.grad(loss)).lower(floats).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * batch * length * channels * states


def test_step_by_step_equals_the_scan():
    arrays = inputs((2, 6, 3, 4), ("D", "z", "delta_bias"))
    floats = {k: jnp.asarray(v, jnp.float32) for k, v in arrays.items()}
    whole = selective_scan(**{JAX_NAMES[k]: v for k, v in floats.items()}, delta_softplus=True)
    state, A, rest = jnp.zeros((2, 3, 4)), floats["A"], (floats["D"], floats["delta_bias"])
    for position in range(6):
        u, delta, B, C, z = (floats[k][:, position] for k in ("u", "delta", "B", "C", "z"))
        y, state = selective_scan_step(
            state, u, delta, A, B, C, rest[0], z, rest[1], delta_softplus=True
        )
        np.testing.assert_allclose(y, whole[:, position], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 5, 37, 100])
def test_chunks_of_any_length_equal_the_oracle(chunk):
    scan = scan_named("chunked", chunk)
    compare(run(scan, inputs((2, 37, 5, 3)), jnp.float32, reverse=True), 1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["associative", "chunked", "sequential"])
def test_forward_mode_equals_finite_differences(name, reverse):
    arrays = inputs((2, 5, 3, 2), ("D", "z", "delta_bias", "initial_state"))
    rng = np.random.default_rng(3)
    along = {k: rng.normal(size=v.shape) for k, v in arrays.items()}

    def scan(arrays):
        named = {JAX_NAMES[k]: v for k, v in arrays.items()}
        return selective_scan(**named, delta_softplus=True, reverse=reverse, implementation=name)

    _, dy = jax.jit(lambda at, along: jax.jvp(scan, (at,), (along,)))(arrays, along)
    ahead, behind = (scan({k: arrays[k] + h * along[k] for k in arrays}) for h in (1e-6, -1e-6))
    np.testing.assert_allclose(dy, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_both_directions_equal_one_after_the_other(name):
    floats = {k: jnp.asarray(v, jnp.float32) for k, v in inputs((2, 7, 3, 4)).items()}
    lengths = jnp.array([7, 4])
    own = {k: jnp.stack([floats[k], 1.5 * floats[k]]) for k in ("delta", "A", "B", "C", "D")}
    both = bidirectional_scan(
        floats["u"],
        *own.values(),
        floats["z"],
        floats["delta_bias"],
        delta_softplus=True,
        lengths_B=lengths,
        implementation=name,
    )
    for direction in (0, 1):
        alone = selective_scan(
            floats["u"],
            *(x[direction] for x in own.values()),
            floats["z"],
            floats["delta_bias"],
            delta_softplus=True,
            lengths_B=lengths,
            reverse=bool(direction),
            implementation=name,
        )
        np.testing.assert_allclose(both[direction], alone, rtol=1e-6, atol=1e-7)
