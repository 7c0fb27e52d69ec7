"""Arguments that no scan takes, those of no size, and batches without a number."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from selective_scan import (
    bidirectional_scan,
    dispatch,
    selective_scan,
    selective_scan_readout,
    tpu,
)
from selective_scan.arguments import ScanInputs
from tests.selective_scan.oracle import JAX_NAMES, inputs


def arrays_of(shape=(2, 6, 3, 4)):
    """Return float32 arrays by the names of ``selective_scan``."""
    arrays = {JAX_NAMES[k]: v for k, v in inputs(shape).items()}
    return {
        k: np.asarray(v, np.int32 if k == "lengths_B" else np.float32) for k, v in arrays.items()
    }


def for_readout(arrays):
    used = {k: v for k, v in arrays.items() if k not in ("C_BxLxN", "D_E", "z_BxLxE", "lengths_B")}
    return used | {"C_BxN": arrays["C_BxLxN"].sum(1), "stop_B": arrays["lengths_B"]}


def for_both_directions(arrays):
    public = {field: name for name, field in JAX_NAMES.items()} | {"lengths_B": "lengths_B"}
    return {public[k]: v for k, v in arrays.items() if k != "initial_state_BxExN"}


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool"])
@pytest.mark.parametrize("field", sorted(set(JAX_NAMES.values()) - {"lengths_B"}))
def test_only_real_floating_point_numbers(field, dtype):
    name = {v: k for k, v in JAX_NAMES.items()}[field]
    match = rf"^{name} has dtype {dtype}; .*floating-point.*{name}\.astype"
    arrays = arrays_of()
    arrays[field] = arrays[field].astype(dtype)
    with pytest.raises(TypeError, match=match):
        selective_scan(**arrays)
    if field in for_readout(arrays) and field != "initial_state_BxExN":
        with pytest.raises(TypeError, match=match):
            selective_scan_readout(**for_readout(arrays))
    if field != "initial_state_BxExN":
        with pytest.raises(TypeError, match=match):
            bidirectional_scan(**for_both_directions(arrays))


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_only_whole_lengths(dtype):
    arrays = arrays_of()
    broken = arrays | {"lengths_B": arrays["lengths_B"].astype(dtype)}
    match = rf"^lengths has dtype {dtype}; .*lengths\.astype"
    with pytest.raises(TypeError, match=match):
        selective_scan(**broken)
    with pytest.raises(TypeError, match=match):
        bidirectional_scan(**for_both_directions(broken))
    for name in ("start", "stop"):
        ends = for_readout(arrays) | {f"{name}_B": broken["lengths_B"]}
        with pytest.raises(TypeError, match=rf"^{name} has dtype {dtype}; .*{name}\.astype"):
            selective_scan_readout(**ends)


@pytest.mark.parametrize("shape", [(0, 6, 3, 4), (2, 0, 3, 4), (2, 6, 0, 4), (2, 6, 3, 0)])
@pytest.mark.parametrize("name", ["fused", "chunked"])
def test_nothing_gives_nothing(name, shape):
    arrays = arrays_of(shape)
    arrays["lengths_B"] = np.full(shape[0], shape[1])

    @jax.jit
    def run(arrays):
        options = {"implementation": name}
        return (
            selective_scan(**arrays, **options, return_last_state=True),
            selective_scan_readout(**for_readout(arrays), **options),
            bidirectional_scan(**for_both_directions(arrays), **options),
            jax.grad(lambda u: jnp.sum(selective_scan(**arrays | {"u_BxLxE": u}, **options)))(
                arrays["u_BxLxE"]
            ),
        )

    (y, last), read, both, gradient = run(arrays)
    assert y.shape == gradient.shape == shape[:3]
    assert both.shape == (2, *shape[:3])
    assert y.dtype == last.dtype == jnp.float32
    # Without states the input remains, without positions the initial state.
    wanted = arrays["D_E"] * arrays["u_BxLxE"] * jax.nn.silu(arrays["z_BxLxE"])
    np.testing.assert_allclose(y, wanted, rtol=1e-6)
    np.testing.assert_array_equal(last, arrays["initial_state_BxExN"])
    wanted = np.einsum("ben,bn->be", arrays["initial_state_BxExN"], arrays["C_BxLxN"].sum(1))
    np.testing.assert_array_equal(read, wanted)


def test_nothing_in_chunks():
    assert selective_scan(**arrays_of((0, 6, 3, 4)), implementation="chunked", chunk=2).size == 0


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
    floats = {k: v for k, v in arrays.items() if k != "lengths_B"}

    def loss(floats):
        results = scan(floats | {"lengths_B": arrays["lengths_B"]})
        return sum(map(jnp.sum, jax.tree.leaves(results))), results

    return jax.grad(loss, has_aux=True)(floats)


@pytest.mark.parametrize("name", ["fused", "chunked", "associative", "sequential"])
def test_export_with_a_symbolic_batch(name):
    function = jax.jit(partial(with_gradients, partial(forms, name)))
    program = export.export(function)(symbolic(arrays_of()))
    stored = program.serialize()
    if name == "fused":  # to compile all of them would take long
        arrays = arrays_of((5, 6, 3, 4))
        actual, expected = export.deserialize(stored).call(arrays), function(arrays)
        check = lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-5)  # noqa: E731
        jax.tree.map(check, actual, expected)


def test_export_of_the_tpu_kernel_with_a_symbolic_batch():
    scan = lambda arrays: tpu.scan(ScanInputs(**arrays), softplus=True, reverse=False)  # noqa: E731
    function = jax.jit(partial(with_gradients, scan))
    export.export(function, platforms=["tpu"])(symbolic(arrays_of())).serialize()


def test_a_symbolic_batch_is_refused_where_sizes_must_be_numbers(monkeypatch):
    monkeypatch.setitem(dispatch._NEEDS, "pallas_gpu", lambda: None)
    shapes = symbolic(arrays_of())
    for name in ("pallas_gpu", "reference"):
        scan = lambda arrays: selective_scan(**arrays, implementation=name)  # noqa: B023, E731
        with pytest.raises(ValueError, match=f"'{name}' cannot run here: .*symbolic.*fused"):
            jax.eval_shape(scan, shapes)
    # "auto" takes another.
    jax.eval_shape(lambda arrays: selective_scan(**arrays), shapes)
    jax.eval_shape(lambda arrays: bidirectional_scan(**for_both_directions(arrays)), shapes)
