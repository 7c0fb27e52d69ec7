"""Which implementation runs, and what is said where one cannot."""

import json
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from selective_scan import (
    bidirectional_scan,
    dispatch,
    implementations,
    measured,
    register,
    selective_scan,
    selective_scan_readout,
    xla,
)
from selective_scan.dispatch import resolve_implementation
from tests.selective_scan.oracle import OPTIONS, check, float32, for_readout, inputs


@pytest.fixture
def arguments():
    arrays = inputs((2, 6, 3, 4), ())
    return [jnp.asarray(arrays[k], jnp.float32) for k in ("u", "delta", "A", "B", "C")]


def test_mistakes_are_named(arguments):
    u, delta, A, B, C = arguments
    with pytest.raises(ValueError, match="did you mean 'tiled'"):
        selective_scan(*arguments, implementation="tilled")
    with pytest.raises(ValueError, match="unknown implementation None"):
        selective_scan(*arguments, implementation=None)
    with pytest.raises(ValueError, match=r"A has shape \(3, 3, 4\); its first axis is not 2"):
        bidirectional_scan(u, delta, jnp.stack([A] * 3), B, C)


def floats_of(options):
    return float32(inputs((2, 9, 4, 3), [name for name in OPTIONS[options] if name != "lengths"]))


FORMS = {
    "scan": lambda arrays: selective_scan(**arrays, delta_softplus=True, return_last_state=True),
    "both directions": lambda arrays: bidirectional_scan(**arrays, delta_softplus=True),
    "readout": lambda arrays: selective_scan_readout(**for_readout(arrays), delta_softplus=True),
}


def loss_of(form, arrays):
    return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(FORMS[form](arrays)))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about a CPU")
@pytest.mark.parametrize(
    "form",
    ["scan", *(pytest.param(f, marks=pytest.mark.slow) for f in ("readout", "both directions"))],
)
def test_a_program_of_three_platforms_has_the_kernel_of_each(form):
    """Forward, and the gradient under ``vmap``; on this machine it is what it is without them."""
    arrays = floats_of("mamba")
    mapped = jax.vmap(jax.grad(partial(loss_of, form)))
    stacked = jax.tree.map(lambda x: jnp.stack([x, x / 2]), arrays)
    for function, given in ((FORMS[form], arrays), (mapped, stacked)):
        program = export.export(jax.jit(function), platforms=["cpu", "cuda", "tpu"])(given)
        module = program.mlir_module()
        assert module.count("stablehlo.custom_call @mosaic_gpu") >= 1
        assert module.count("stablehlo.custom_call @tpu_custom_call") >= 1
        assert module.count("stablehlo.while") >= 1
        alone = jax.jit(function).trace(given).lower()
        assert "custom_call @mosaic" not in alone.as_text()
    jax.tree.map(np.testing.assert_array_equal, program.call(given), alone.compile()(given))


def test_derivatives_are_those_of_the_platform():
    """Other platforms' kernels have neither second derivatives nor forward mode."""
    loss = lambda u: loss_of("scan", floats_of("plain") | {"u": u})  # noqa: E731
    second = jax.jit(jax.jacrev(jax.grad(loss)))
    u = floats_of("plain")["u"]
    assert second.trace(u).lower().as_text()
    with pytest.raises(TypeError, match="'pallas_gpu' has first derivatives only"):
        second.trace(u).lower(lowering_platforms=("cuda",))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about a CPU")
@pytest.mark.parametrize(
    ("name", "platform", "needs"),
    [("pallas_gpu", "cuda", "an NVIDIA GPU"), ("pallas_tpu", "tpu", "a TPU")],
)
def test_a_kernel_that_is_named_is_lowered_for_its_platform_only(name, platform, needs, arguments):
    scan = partial(selective_scan, implementation=name)
    gradient = jax.grad(lambda *arguments: jnp.sum(scan(*arguments)))
    for function in (scan, gradient):
        traced = jax.jit(function).trace(*arguments)
        assert "custom_call" in traced.lower(lowering_platforms=(platform,)).as_text()
        match = f"^implementation '{name}' cannot run here: needs {needs}; this is cpu .* auto, til"
        runs = (traced.lower, partial(function, *arguments), partial(jax.jit(function), *arguments))
        both = export.export(jax.jit(function), platforms=["cpu", platform])
        for here in (*runs, partial(both, *arguments)):
            with pytest.raises(ValueError, match=match):
                here()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about a CPU")
def test_auto_takes_the_kernel_where_it_takes_the_arrays(arguments):
    kernels = {"cuda": "pallas_gpu", "tpu": "pallas_tpu"}
    assert resolve_implementation("auto", *arguments, None) == {**kernels, None: "tiled"}
    assert implementations()["pallas_gpu"] == "needs an NVIDIA GPU; this is cpu"
    empty = [jnp.zeros((0, 6, 3)), *arguments[1:]]
    assert resolve_implementation("auto", *empty) == {None: "sequential"}
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in arguments]
        assert resolve_implementation("auto", *wide) == {None: "tiled"}
        with pytest.raises(ValueError, match="computes in float32, and an input is float64"):
            resolve_implementation("pallas_gpu", *wide)


TABLES = {
    file.name: json.loads(file.read_text())
    for file in files(measured).iterdir()
    if file.name.endswith(".json")
}
RESULTS = Path(__file__).parents[2] / "benchmarks/results"


@pytest.mark.parametrize("name", TABLES)
def test_tables_hold_what_was_measured(name):
    table, expected = TABLES[name], {}
    wanted = {"pass": "forward+backward", "dtype": "float32", "status": "measured"}
    for file in table["results"]:
        results = json.loads((RESULTS / file).read_text())
        assert results["date"] == table["date"]
        for row in results["rows"]:
            scan = {"fused": "tiled"}.get(row.get("implementation"), row.get("implementation"))
            of_scans = row.get("section", "scans") == "scans" and scan in dispatch.SCANS
            of_scans &= row.get("decays", "layer") == "layer"
            if not (of_scans and wanted.items() <= row.items()):
                continue
            size = tuple(row[k] for k in ("batch", "length", "channels", "states"))
            seconds = row.get("queued_seconds") or row["median_seconds"]
            memory = round(row["memory"]["temporary"] / 2**20)
            expected.setdefault(size, {})[scan] = [float(f"{1e3 * seconds:.3g}"), memory]
    assert {tuple(row["size"]): row["scans"] for row in table["sizes"]} == expected


@pytest.mark.parametrize("name", TABLES)
def test_auto_never_takes_a_scan_that_another_beats(name):
    platform, kind = ("cpu", "cpu") if name == "cpu.json" else ("cuda", "NVIDIA H200")
    for row in TABLES[name]["sizes"]:
        times = {scan: milliseconds for scan, (milliseconds, _) in row["scans"].items()}
        kernel = times.pop("pallas_gpu", 0)  # taken wherever it runs
        assert kernel < min(times.values())
        found = measured.fastest(platform, kind, tuple(row["size"]), times)
        assert times[found] <= 1.1 * min(times.values())
        if platform == "cpu":
            assert found == "tiled"


@pytest.fixture
def ampere(monkeypatch):
    device = SimpleNamespace(platform="gpu", device_kind="NVIDIA A100", compute_capability="8.0")
    monkeypatch.setattr(jax, "devices", lambda: [device])


@pytest.mark.usefixtures("ampere")
def test_a_gpu_without_the_kernel_takes_few_long_rows_in_chunks(arguments):
    assert implementations()["pallas_gpu"].endswith("9.0 or newer; this one's is 8.0")
    auto = partial(resolve_implementation, "auto", *arguments)
    assert auto(size=(8, 16384, 2048, 16))[None] == auto(size=(1, 9000, 1024, 8))[None] == "chunked"
    assert auto(size=(2048, 50, 128, 32))[None] == auto(size=(999, 99, 64, 64))[None] == "tiled"
    assert auto()[None] == "tiled"  # the read-out
    arrays = float32(inputs((1, 400, 2, 2)))
    results = [
        jax.jit(partial(selective_scan, implementation=name))(**arrays)
        for name in ("auto", "chunked", "tiled")
    ]
    np.testing.assert_array_equal(*results[:2])
    assert (results[0] != results[2]).any()


def test_auto_takes_no_kernel_where_shards_are_checked(arguments):
    mesh = jax.make_mesh((1,), ("rows",))
    u = jax.device_put(arguments[0], jax.NamedSharding(mesh, jax.P("rows")))
    names = []

    def note(u):
        names.append(resolve_implementation("auto", u, *arguments[1:]))
        return selective_scan(u, *arguments[1:])

    for check_vma in (True, False):
        specs = {"in_specs": jax.P("rows"), "out_specs": jax.P("rows")}
        jax.jit(jax.shard_map(note, mesh=mesh, **specs, check_vma=check_vma))(u)
    checked, free = names
    assert checked == {None: "tiled"}
    assert {"pallas_gpu", "pallas_tpu"} < {*free.values()}


@pytest.fixture
def own_names():
    yield
    for name in ("mine", "never"):
        del dispatch.SCANS[name]


@pytest.mark.usefixtures("own_names")
def test_a_scan_of_ones_own(arguments):
    """The recurrence is all of it: lengths, time steps, D and gate are done around it."""
    visited = []

    def mine(inputs, *, reverse):
        visited.append(reverse)
        return xla.sequential(inputs, reverse=reverse)

    register("mine", lambda *_: 1 / 0)
    register("mine", mine)
    check(dispatch.SCANS["mine"].scan, inputs((2, 6, 3, 4)), reverse=True)
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
