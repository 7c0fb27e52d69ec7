"""Arguments that no scan takes, those of no size, and batches without a number."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from selective_scan import (
    bidirectional_scan,
    selective_scan,
    selective_scan_prefix_readouts,
    selective_scan_readout,
    selective_scan_step,
    tpu,
)
from selective_scan.arguments import ScanInputs
from tests.selective_scan.oracle import OPTIONS, float32, for_readout, inputs


def arrays_of(shape=(2, 6, 3, 4)):
    return {k: np.asarray(x) for k, x in float32(inputs(shape, OPTIONS["packed"])).items()}


def for_both_directions(arrays):
    return {k: v for k, v in arrays.items() if k != "initial_state"}


FUNCTIONS = {
    "scan": (selective_scan, lambda arrays: arrays),
    "readout": (selective_scan_readout, for_readout),
    "both directions": (bidirectional_scan, for_both_directions),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_arguments_of_no_use_are_named(kind):
    function, choose = FUNCTIONS[kind]
    good = choose(arrays_of())
    for name, x in good.items():
        whole = name in ("lengths", "stop", "segment_ids")
        floats = ("int32", "complex64", "bool", "float8_e5m2")
        for dtype in ("float32", "bool") if whole else floats:
            wanted = "integers" if whole else "real floating point of 16 bits or more"
            match = rf"^{name} has dtype {dtype}; {wanted} expected.*{name}\.astype\(jnp\."
            with pytest.raises(TypeError, match=match):
                jax.eval_shape(function, **good | {name: x.astype(dtype)})
        # u and A say what fits the others.
        shapes = [(), (1, 1, *x.shape), *([] if name in "uA" else [(*x.shape[:-1], 7)])]
        for shape in shapes:
            with pytest.raises(ValueError, match=rf"{name} has shape \("):
                jax.eval_shape(function, **good | {name: np.zeros(shape, x.dtype)})
    with pytest.raises(ValueError, match=r"^B has shape \(2, 6, 3\); \(2, 6, 4\) expected \(B, L"):
        jax.eval_shape(function, **good | {"B": good["B"][..., :3]})


def test_shapes_are_those_that_were_given():
    """Where a function adds an axis or renames an array before it scans, errors do not show it."""
    arrays = {k: np.float32(x) for k, x in arrays_of((2, 6, 3, 4)).items() if k in "u delta A B C"}
    one = {k: x if k == "A" else x[:, 0] for k, x in arrays.items()}
    one["state"] = np.zeros((2, 3, 4), np.float32)
    step = selective_scan_step
    prefixes = selective_scan_prefix_readouts
    for function, given, name, change, message in (
        (step, one, "u", lambda x: x[0], r"\(3,\); \(batch, channels\) expected"),
        (step, one, "delta", lambda x: x[:1], r"\(1, 3\); \(2, 3\) expected \(B, E\)"),
        (step, one, "B", lambda x: x[:, :3], r"\(2, 3\); \(2, 4\) expected \(B, N\)"),
        (step, one, "C", lambda x: x[:, None].repeat(2, 1), r"\(2, 2, 4\); its groups, 2, do"),
        (step, one, "state", lambda x: x[0], r"\(3, 4\); \(2, 3, 4\) expected \(B, E, N\)"),
        (prefixes, arrays, "u", lambda x: x[0], r"\(6, 3\); \(batch, length, channels\) "),
        (prefixes, arrays, "delta", lambda x: x[0], r"\(6, 3\); \(2, 6, 3\) expected"),
    ):
        with pytest.raises(ValueError, match=f"^{name} has shape {message}"):
            function(**given | {name: change(given[name])})


def test_lists_are_arrays_and_lengths_may_lie_outside():
    """At or below 0 nothing is visited, past the end everything."""
    arrays = arrays_of((3, 6, 3, 4))
    scan = jax.jit(partial(selective_scan, delta_softplus=True, reverse=True))
    beyond = scan(**arrays | {"lengths": [-3, 6, 99]})
    np.testing.assert_array_equal(beyond, scan(**arrays | {"lengths": np.array([0, 6, 6])}))


def for_prefixes(arrays):
    used = {k: arrays[k] for k in ("u", "delta", "A", "B", "delta_bias", "lengths")}
    return used | {"C": arrays["C"][:, 0]}


@pytest.mark.parametrize(
    ("function", "choose"), [*FUNCTIONS.values(), (selective_scan_prefix_readouts, for_prefixes)]
)
def test_strict_promotion_of_dtypes(function, choose):
    """Whoever asks JAX to refuse implicit promotion can use the scans, with mixed dtypes, too."""
    arrays = arrays_of()
    half = {k: arrays[k].astype(jnp.bfloat16) for k in ("u", "delta", "B", "C", "z")}
    results = lambda arrays: function(**arrays, delta_softplus=True)  # noqa: E731
    with jax.numpy_dtype_promotion("strict"):
        for given in (arrays, arrays | half):
            jax.eval_shape(partial(with_gradients, results), choose(given))


@pytest.mark.parametrize("shape", [(0, 6, 3, 4), (2, 0, 3, 4), (2, 6, 0, 4), (2, 6, 3, 0)])
def test_nothing_gives_nothing(shape):
    arrays = arrays_of(shape)
    arrays["lengths"] = np.full(shape[0], shape[1])

    @jax.jit
    def run(arrays):
        options = {"implementation": "tiled"}
        groups = {k: arrays[k][:, :, None] for k in ("B", "C")}
        prefixes = {k: arrays[k] for k in ("u", "delta", "A", "B", "C")}
        return (
            selective_scan(**arrays, **options, return_last_state=True),
            selective_scan(**arrays | groups, **options, return_last_state=True),
            selective_scan_prefix_readouts(**prefixes),
            selective_scan_readout(**for_readout(arrays), **options),
            bidirectional_scan(**for_both_directions(arrays), **options),
            jax.grad(lambda u: jnp.sum(selective_scan(**arrays | {"u": u}, **options)))(
                arrays["u"]
            ),
        )

    (y, last), (y_groups, last_groups), prefixes, read, both, gradient = run(arrays)
    assert y.shape == gradient.shape == prefixes.shape == shape[:3]
    np.testing.assert_array_equal(prefixes, 0)
    assert both.shape == (2, *shape[:3])
    assert y.dtype == last.dtype == jnp.float32
    # Without states the input remains, without positions the initial state.
    wanted = arrays["D"] * arrays["u"] * jax.nn.silu(arrays["z"])
    np.testing.assert_allclose(y, wanted, rtol=1e-6)
    np.testing.assert_array_equal(last, arrays["initial_state"])
    np.testing.assert_array_equal(y_groups, y)
    np.testing.assert_array_equal(last_groups, last)
    wanted = np.einsum("ben,bn->be", arrays["initial_state"], arrays["C"].sum(1))
    np.testing.assert_array_equal(read, wanted)


def symbolic(arrays):
    """Return shapes in which the batch is b, where the arrays have 2 rows."""
    b = export.symbolic_shape("b")
    shape_of = lambda x: (*b, *x.shape[1:]) if x.shape[0] == 2 else x.shape  # noqa: E731
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(shape_of(x), x.dtype), arrays)


def forms(name, arrays):
    options = {"delta_softplus": True, "implementation": name}
    return (
        selective_scan(**arrays, **options, return_last_state=True),
        selective_scan_readout(**for_readout(arrays), **options),
    )


def with_gradients(scan, arrays):
    """Return the results of ``scan``, and the gradients of their sum."""
    floats = {k: v for k, v in arrays.items() if k not in ("lengths", "segment_ids", "stop")}

    def loss(floats):
        results = scan(arrays | floats)
        total = sum(jnp.sum(x).astype(jnp.float32) for x in jax.tree.leaves(results))
        return total, results

    return jax.grad(loss, has_aux=True)(floats)


@pytest.mark.parametrize("name", ["tiled", "chunked", "associative", "sequential"])
def test_export_with_a_symbolic_batch(name):
    function = jax.jit(partial(with_gradients, partial(forms, name)))
    program = export.export(function)(symbolic(arrays_of()))
    stored = program.serialize()
    if name == "tiled":  # to compile all of them would take long
        arrays = arrays_of((5, 6, 3, 4))
        actual, expected = export.deserialize(stored).call(arrays), function(arrays)
        check = lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-5)  # noqa: E731
        jax.tree.map(check, actual, expected)


def test_export_of_the_tpu_kernel_with_a_symbolic_batch():
    scan = lambda arrays: tpu.scan(ScanInputs(**arrays), softplus=True, reverse=False)  # noqa: E731
    function = jax.jit(partial(with_gradients, scan))
    export.export(function, platforms=["tpu"])(symbolic(arrays_of())).serialize()


def test_a_symbolic_batch_is_refused_where_sizes_must_be_numbers():
    shapes = symbolic(arrays_of())
    for name in ("pallas_gpu", "reference"):
        scan = lambda arrays: selective_scan(**arrays, implementation=name)  # noqa: B023, E731
        with pytest.raises(ValueError, match=f"'{name}' cannot run here: .*symbolic.*tiled"):
            jax.eval_shape(scan, shapes)
    # "auto" takes another.
    jax.eval_shape(lambda arrays: selective_scan(**arrays), shapes)
    jax.eval_shape(lambda arrays: bidirectional_scan(**for_both_directions(arrays)), shapes)
