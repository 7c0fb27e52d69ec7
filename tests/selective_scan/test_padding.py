"""What lies past a row's length, numbers or not, changes nothing and has gradients of exactly 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selective_scan import bidirectional_scan, selective_scan, selective_scan_readout
from selective_scan.arguments import ScanInputs
from tests.selective_scan.oracle import SCANS, inputs

LENGTHS = np.array([0, 5, 19, 12])
SHAPE = (4, 19, 3, 2)
DIRT = {"u": np.inf, "delta": np.nan, "B": -np.inf, "C": np.nan, "z": np.inf}
OUTSIDE = ~(np.arange(SHAPE[1]) < LENGTHS[:, None])


def draw(given):
    """Return float32 inputs, and those with dirt past each row's length."""
    clean = {k: np.float32(v) for k, v in inputs(SHAPE, given).items()}
    spoiled = {k: np.where(OUTSIDE[..., None], DIRT[k], v) for k, v in clean.items() if k in DIRT}
    return clean, clean | spoiled


def check(run, given=("D", "z", "delta_bias", "initial_state")):
    """Hold results and gradients of both against each other, also under a dirty gradient of y."""
    clean, dirty = draw(given)
    results = jax.eval_shape(run, clean)
    rng = np.random.default_rng(2)
    outer = jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), results)
    spoil = lambda x: np.where(OUTSIDE[..., None], np.nan, x) if x.shape[-2:] == (19, 3) else x  # noqa: E731

    @jax.jit
    def both(arrays, outer):
        results, pull_back = jax.vjp(run, arrays)
        return results, pull_back(outer)[0]

    expected = both(clean, outer)
    actual = both(dirty, jax.tree.map(spoil, outer))
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    for name in DIRT.keys() & actual[1].keys():
        assert np.all(np.asarray(actual[1][name])[OUTSIDE] == 0), name


# Padding is set to 0 before any scan begins; the kernels skip it too.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("associative", "chunked")))
        for name in SCANS
    ],
)
def test_dirt_past_the_lengths(name):
    def run(arrays):
        args = ScanInputs(**arrays, lengths=LENGTHS)
        return SCANS[name](args, softplus=True, reverse=name != "chunked")

    check(run)


def test_dirt_in_both_directions():
    def run(arrays):
        return bidirectional_scan(**arrays, delta_softplus=True, lengths=LENGTHS)

    check(run, given=("D", "z", "delta_bias"))


@pytest.mark.parametrize("name", ["tiled", "chunked"])
def test_dirt_outside_of_the_readouts_range(name):
    """Backwards in time: what is past the length comes before the start."""

    def run(arrays):
        in_time = {k: arrays[k][:, ::-1] for k in ("u", "delta", "B")}
        rest = {k: arrays[k] for k in ("A", "delta_bias", "initial_state")}
        return selective_scan_readout(
            **in_time,
            **rest,
            C=np.ones((4, 2), np.float32),
            delta_softplus=True,
            start=SHAPE[1] - LENGTHS,
            reverse=True,
            implementation=name,
        )

    check(run, given=("delta_bias", "initial_state"))


@pytest.mark.parametrize("readout", [False, True])
def test_dirt_in_a_shard_of_time(readout):
    """Both shards have the same arrays; a mapped axis stands for the devices."""

    def run(arrays):
        if readout:
            scan, own = selective_scan_readout, {"C": jnp.ones((4, 2)), "stop": LENGTHS}
        else:
            scan, own = selective_scan, {"lengths": LENGTHS}
        shard = lambda _: scan(**arrays | own, delta_softplus=True, axis_name="time")  # noqa: E731
        return jax.vmap(shard, axis_name="time")(jnp.arange(2))

    check(run, given=("delta_bias",))
