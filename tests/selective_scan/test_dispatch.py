"""Which implementation runs, and what is said where one cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selective_scan import bidirectional_scan, dispatch, implementations, selective_scan
from selective_scan.dispatch import resolve_implementation
from tests.selective_scan.oracle import inputs


@pytest.fixture
def arguments():
    arrays = inputs((2, 6, 3, 4), ())
    return [jnp.asarray(arrays[k], jnp.float32) for k in ("u", "delta", "A", "B", "C")]


@pytest.fixture
def kernel_runs(monkeypatch):
    monkeypatch.setitem(dispatch._NEEDS, "pallas_gpu", lambda: None)


def test_mistakes_are_named(arguments):
    u, delta, A, B, C = arguments
    with pytest.raises(ValueError, match="did you mean 'fused'"):
        selective_scan(*arguments, implementation="fussed")
    with pytest.raises(ValueError, match=r"B has shape \(2, 6, 3\); \(2, 6, 4\) expected"):
        selective_scan(u, delta, A, B[..., :3], C)
    with pytest.raises(ValueError, match="A has shape"):
        selective_scan(u, delta, A[0], B, C)
    with pytest.raises(ValueError, match="chunk=8 is for implementation 'chunked', not for 'fused"):
        selective_scan(*arguments, implementation="fused", chunk=8)
    with pytest.raises(ValueError, match="chunk=0: a chunk has 1 position or more"):
        selective_scan(*arguments, implementation="chunked", chunk=0)
    with pytest.raises(ValueError, match=r"A_ExN has shape \(3, 3, 4\); its first axis is not 2"):
        bidirectional_scan(u, delta, jnp.stack([A] * 3), B, C)


@pytest.mark.skipif(jax.default_backend() == "tpu", reason="it can run here")
def test_why_one_cannot_run_and_which_can(arguments):
    match = "'pallas_tpu' cannot run here: needs a TPU; this is .*here run: auto, .*fused, chunked"
    with pytest.raises(ValueError, match=match):
        selective_scan(*arguments, implementation="pallas_tpu")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about a CPU")
def test_auto_takes_fused_on_a_cpu(arguments):
    assert resolve_implementation("auto", *arguments, None) == "fused"
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
        assert resolve_implementation("auto", *wide) == "fused"
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
    assert names == ["fused", "pallas_gpu"]
