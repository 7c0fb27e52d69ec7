"""Which implementation runs, and what is said where one cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selective_scan import (
    bidirectional_scan,
    dispatch,
    implementations,
    register,
    selective_scan,
    xla,
)
from selective_scan.dispatch import resolve_implementation
from tests.selective_scan.oracle import compare, inputs, run


@pytest.fixture
def arguments():
    arrays = inputs((2, 6, 3, 4), ())
    return [jnp.asarray(arrays[k], jnp.float32) for k in ("u", "delta", "A", "B", "C")]


@pytest.fixture
def kernel_runs(monkeypatch):
    monkeypatch.setitem(dispatch._NEEDS, "pallas_gpu", lambda: None)


def test_mistakes_are_named(arguments):
    u, delta, A, B, C = arguments
    with pytest.raises(ValueError, match="did you mean 'tiled'"):
        selective_scan(*arguments, implementation="tilled")
    with pytest.raises(ValueError, match=r"A has shape \(3, 3, 4\); its first axis is not 2"):
        bidirectional_scan(u, delta, jnp.stack([A] * 3), B, C)


@pytest.mark.skipif(jax.default_backend() == "tpu", reason="it can run here")
def test_why_one_cannot_run_and_which_can(arguments):
    match = "'pallas_tpu' cannot run here: needs a TPU; this is .*here run: auto, .*tiled, chunked"
    with pytest.raises(ValueError, match=match):
        selective_scan(*arguments, implementation="pallas_tpu")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about a CPU")
def test_auto_takes_fused_on_a_cpu(arguments):
    assert resolve_implementation("auto", *arguments, None) == "tiled"
    assert implementations()["pallas_gpu"] == "needs an NVIDIA GPU; this is cpu"


@pytest.mark.usefixtures("kernel_runs")
def test_auto_takes_the_kernel_where_it_runs_and_takes_the_arrays(arguments):
    assert resolve_implementation("auto", *arguments, None) == "pallas_gpu"
    assert (
        resolve_implementation("auto", *(np.asarray(x, np.float64) for x in arguments))
        == "pallas_gpu"
    )
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in arguments]
        assert resolve_implementation("auto", *wide) == "tiled"
        with pytest.raises(ValueError, match="computes in float32, and an input is float64"):
            resolve_implementation("pallas_gpu", *wide)


@pytest.mark.usefixtures("kernel_runs")
def test_auto_takes_fused_where_shards_are_checked(arguments):
    mesh = jax.make_mesh((1,), ("rows",))
    u = jax.device_put(arguments[0], jax.NamedSharding(mesh, jax.P("rows")))
    names = []

    def note(u):
        names.append(resolve_implementation("auto", u, *arguments[1:]))
        return u

    for check in (True, False):
        specs = {"in_specs": jax.P("rows"), "out_specs": jax.P("rows")}
        jax.shard_map(note, mesh=mesh, **specs, check_vma=check)(u)
    assert names == ["tiled", "pallas_gpu"]


@pytest.fixture
def own_names():
    yield
    for table in (dispatch.SCANS, dispatch._NEEDS):
        for name in ("mine", "never"):
            del table[name]


@pytest.mark.usefixtures("own_names")
def test_a_scan_of_ones_own(arguments):
    """The recurrence is all of it: lengths, time steps, D and gate are done around it."""
    visited = []

    def mine(inputs, *, reverse):
        visited.append(reverse)
        return xla.sequential(inputs, reverse=reverse)

    register("mine", lambda *_: 1 / 0)
    register("mine", mine)
    compare(run(dispatch.SCANS["mine"], inputs((2, 6, 3, 4)), jnp.float32, True), 1e-5)
    assert set(visited) == {True}
    selective_scan(*arguments, implementation="mine")
    assert not visited[-1]
    register("never", mine, available=lambda: "needs a quantum computer")
    assert implementations()["never"] == "needs a quantum computer"
    with pytest.raises(ValueError, match=r"'never' cannot run here: needs a quantum.*, mine"):
        selective_scan(*arguments, implementation="never")
    for name in ("tiled", "auto"):
        with pytest.raises(ValueError, match=f"'{name}' is this package's own"):
            register(name, mine)
