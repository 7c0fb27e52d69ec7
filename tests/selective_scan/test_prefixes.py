"""The read-out of every prefix at once, against a reverse scan of each."""

import re
from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from selective_scan import selective_scan_prefix_readouts, selective_scan_reference
from tests.selective_scan.oracle import inputs

SHAPE = (3, 7, 3, 2)
LENGTHS = np.array([7, 4, 0])
INSIDE = np.arange(7) < LENGTHS[:, None]


def draw(versions):
    """Return float64 arguments with so many versions; without any, C is one for all prefixes."""
    copies = [inputs(SHAPE, ("delta_bias",), seed) for seed in range(versions or 1)]
    arrays = copies[0]
    if not versions:
        return arrays | {"C": arrays["C"][:, 0]}
    stacked = {k: np.stack([copy[k] for copy in copies]) for k in ("u", "delta", "B")}
    settled = np.minimum(np.arange(SHAPE[1]), versions - 1)
    return arrays | stacked | {"C": arrays["C"][:, settled]}


def one_by_one(arrays):
    """Return what the oracle finds for each prefix of each row."""
    batch, length, channels, _ = SHAPE
    y = np.zeros((batch, length, channels))
    versions = {
        k: x if x.ndim == 4 else x[None] for k, x in arrays.items() if k in ("u", "delta", "B")
    }
    C_BxLxN = arrays["C"] if arrays["C"].ndim == 3 else np.repeat(arrays["C"][:, None], length, 1)
    for m in range(length):
        place = np.arange(m + 1)
        version = np.minimum(m - place, len(versions["u"]) - 1)
        prefix = {k: x[version, :, place].swapaxes(0, 1) for k, x in versions.items()}
        C = np.repeat(C_BxLxN[:, m, None], m + 1, 1)
        rest = {k: arrays[k] for k in ("A", "delta_bias")}
        options = {"delta_softplus": True, "reverse": True}
        y[:, m] = selective_scan_reference(**prefix, **rest, C=C, **options)[0][:, 0]
    return np.where(INSIDE[..., None], y, 0)


def readouts(arrays, **options):
    return selective_scan_prefix_readouts(**arrays, delta_softplus=True, **options)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("versions", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_equals_the_oracle_and_finite_differences(versions):
    arrays = draw(versions)

    @jax.jit
    def function(arrays):
        return np.where(INSIDE[..., None], 1, 0) * readouts(arrays, lengths=LENGTHS)

    np.testing.assert_allclose(function(arrays), one_by_one(arrays), rtol=1e-10, atol=1e-12)
    check_grads(function, (arrays,), order=1, modes=["rev"], atol=1e-5, rtol=1e-5)


def test_float32_is_near_the_oracle():
    arrays = draw(3)
    y = readouts({k: np.float32(x) for k, x in arrays.items()}, lengths=LENGTHS)
    assert y.dtype == np.float32
    np.testing.assert_allclose(np.where(INSIDE[..., None], y, 0), one_by_one(arrays), 1e-5, 1e-5)


@pytest.mark.usefixtures("x64")
def test_a_long_time_step_takes_no_digits_from_short_ones():
    """The time before a position does not have the position's own time step in it."""
    arrays = {k: np.float32(x) for k, x in draw(None).items() if k != "delta_bias"}
    arrays["A"] = np.float32([[-1, -16]] * SHAPE[2])
    arrays["delta"] = np.full_like(arrays["u"], 0.01)
    arrays["delta"][:, 3] = 50

    def last(arrays):
        return selective_scan_prefix_readouts(**arrays)[:, 3].sum()

    exact = {k: np.float64(x) for k, x in arrays.items()}
    actual, expected = (jax.jit(jax.value_and_grad(last))(given) for given in (arrays, exact))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), actual, expected)


def test_shards_are_not_reached_by_later_ones():
    arrays = {k: np.float32(x) for k, x in draw(None).items()}
    cut = {k: np.stack([arrays[k], arrays[k]]) for k in ("u", "delta", "B")}
    cut["u"][1] = np.nan
    shard = partial(selective_scan_prefix_readouts, A=arrays["A"], C=arrays["C"], axis_name="time")
    y = jax.vmap(lambda cut: shard(**cut, delta_softplus=True), axis_name="time")(cut)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()


def test_gradient_in_a_shard_map_that_checks_varying_axes():
    arrays = {k: np.float32(x) for k, x in draw(3).items() if k != "delta_bias"}
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(AxisType.Auto,))
    by_row = {k: P(None, "rows") for k in ("u", "delta", "B")} | {"A": P(), "C": P("rows")}
    sharded = jax.shard_map(readouts, mesh=mesh, in_specs=(by_row,), out_specs=P("rows"))

    def gradient(run):
        return jax.jit(jax.grad(lambda arrays: run(arrays).sum()))(arrays)

    actual, expected = gradient(sharded), gradient(readouts)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), actual, expected)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("B", lambda x: x[:1]),
        ("delta", lambda x: x[0]),
        ("A", lambda x: x[:2]),
        ("u", lambda x: x[0, 0]),
    ],
)
def test_shapes_that_do_not_fit_are_named(name, change):
    arrays = draw(3)
    given = change(arrays[name])
    with pytest.raises(ValueError, match=rf"^{name} has shape {re.escape(str(given.shape))}"):
        readouts(arrays | {name: given})
