"""What the mended model promises and the official one does not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from echojax.models.bidirectional import Mends, Parts
from echojax.models.echomamba4rec import VARIANTS, EchoMamba4Rec
from echojax.models.mamba4rec import Mamba4Rec

SIZES = {"width": 8, "state_size": 3, "max_len": 7, "dropout": 0.0}
IDS = np.array([[3, 1, 4, 1, 5, 0, 0], [9, 2, 6, 5, 3, 5, 8], [7, 0, 0, 0, 0, 0, 0]], np.int32)
LENGTHS = np.array([5, 7, 1], np.int32)


def build(kind=EchoMamba4Rec, **changes):
    model = kind(10, **(SIZES | changes), rngs=nnx.Rngs(0))
    # Initial values are so small that much of the function hardly shows; make all of it show.
    graphdef, params = nnx.split(model)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(structure, noisy))


def influence(model, ids=IDS, lengths=LENGTHS):
    """Return how much each position's embedding moves the read-out, (B, L)."""
    embedded = model.embed(ids, None)

    def encode(x):
        for layer in model.layers[:-1]:
            x = layer(x, lengths)
        return model.layers[-1].readout(x, lengths).sum()

    return np.abs(jax.jit(jax.grad(encode))(embedded)).sum(axis=-1)


@pytest.mark.parametrize("layers", [1, 2])
def test_mended_reads_the_whole_history_and_nothing_else(layers):
    moved = influence(build(layers=layers))
    inside = np.arange(7) < LENGTHS[:, None]
    assert (moved[inside] > 1e-6).all()
    assert (moved[~inside] == 0).all()


def test_official_lets_padding_in():
    moved = influence(build(mends=VARIANTS["official"]))
    assert moved[0, 5:].max() > 1e-6


def test_official_backward_sees_no_history():
    model = build(mends=VARIANTS["official"])
    layer = model.layers[0].mambas[0]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7, 8)), jnp.float32)

    def back(x):
        return layer.backward.readout(x, LENGTHS - 1, None, reverse=True).sum()

    moved = np.abs(jax.jit(jax.grad(back))(x)).sum(axis=-1)
    assert (moved[0, :4] == 0).all()
    assert (moved[0, 4:] > 0).all()


@pytest.mark.parametrize("scan", ["fused", "sequential", "associative"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_readout_equals_the_full_pass_at_its_position(scan, reverse, ends):
    mamba = build(scan=scan).layers[0].mambas[0].forward
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7, 8)), jnp.float32)
    lengths = jnp.asarray(LENGTHS) if ends and reverse else None
    everywhere = mamba(x, lengths, reverse=reverse)
    for position in (np.zeros(3, np.int32), LENGTHS - 1):
        one = mamba.readout(x, jnp.asarray(position), lengths, reverse=reverse)
        np.testing.assert_allclose(one, everywhere[np.arange(3), position], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("model", [EchoMamba4Rec, Mamba4Rec])
def test_rows_do_not_meet_and_windows_may_be_short(model):
    built = build(model)
    together = built.encode(IDS, LENGTHS)
    alone = built.encode(IDS[:1, :5], LENGTHS[:1])
    np.testing.assert_allclose(alone, together[:1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="max_len is 7"):
        built.encode(np.ones((1, 8), np.int32), np.array([8]))


def test_mamba4rec_is_causal():
    model = build(Mamba4Rec, layers=2)
    changed = IDS.copy()
    changed[1, 4:] = 9
    four = np.array([4, 4, 1], np.int32)
    np.testing.assert_array_equal(model.encode(IDS, four)[1], model.encode(changed, four)[1])


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Mends)])
def test_each_mend_is_a_switch_of_its_own(name):
    mends = dataclasses.replace(Mends(), **{name: False})
    mended, other = (jax.jit(build(layers=2, mends=m).encode) for m in (Mends(), mends))
    assert not np.allclose(mended(IDS, LENGTHS), other(IDS, LENGTHS), atol=1e-4)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Parts)])
def test_a_part_left_out_changes_the_function_and_has_no_parameters(name):
    whole = build(layers=2)
    less = build(layers=2, parts=dataclasses.replace(Parts(), **{name: False}))
    sizes = [sum(x.size for x in jax.tree.leaves(nnx.state(m))) for m in (whole, less)]
    assert sizes[1] < sizes[0]
    user = less.encode(IDS, LENGTHS)
    assert np.isfinite(user).all()
    moved = influence(less)
    assert (moved[np.arange(7) < LENGTHS[:, None]] > 1e-6).all()
    assert (moved[np.arange(7) >= LENGTHS[:, None]] == 0).all()


def test_depth_of_both_variants():
    def mambas(variant):
        model = EchoMamba4Rec(10, layers=3, mends=VARIANTS[variant], **SIZES, rngs=nnx.Rngs(0))
        return sum(len(layer.mambas) for layer in model.layers)

    assert mambas("echojax") == 3
    assert mambas("official") == 9


def test_time_steps_start_where_they_should():
    def steps(variant):
        model = EchoMamba4Rec(10, **SIZES, mends=VARIANTS[variant], rngs=nnx.Rngs(0))
        return np.asarray(jax.nn.softplus(model.layers[0].mambas[0].forward.dt_bias_E[...]))

    np.testing.assert_allclose(steps("official"), np.log(2), rtol=1e-6)
    assert steps("echojax").min() >= 0.999e-3
    assert steps("echojax").max() <= 0.1001


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_equals_finite_differences(variant):
    model = build(mends=VARIANTS[variant], layers=2)
    graphdef, params = nnx.split(model)
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)

    @jax.jit
    def loss(params):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params).scores(IDS, LENGTHS)[:, 1:]))

    # A lookup never trains padding's row, so the check must leave that row alone.
    direction = jax.tree.map(lambda x: jax.random.normal(jax.random.key(3), x.shape), params)
    table = direction["item_embedding"]
    direction["item_embedding"] = table.replace(table[...].at[0].set(0))
    analytic = sum(
        jnp.vdot(g, d)
        for g, d in zip(
            jax.tree.leaves(jax.grad(loss)(params)), jax.tree.leaves(direction), strict=True
        )
    )
    step = 1e-6
    ahead = loss(jax.tree.map(lambda x, d: x + step * d, params, direction))
    behind = loss(jax.tree.map(lambda x, d: x - step * d, params, direction))
    np.testing.assert_allclose(analytic, (ahead - behind) / (2 * step), rtol=1e-6)


def test_dropout_needs_a_key_and_follows_it():
    model = build(dropout=0.5)
    first, again, other = (
        model.encode(IDS, LENGTHS, dropout_keys=jax.random.split(jax.random.key(k), 3))
        for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    np.testing.assert_array_equal(model.encode(IDS, LENGTHS), model.encode(IDS, LENGTHS))
