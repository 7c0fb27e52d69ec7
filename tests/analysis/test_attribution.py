"""Attributions against finite differences; what each variant's directions have found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from echojax.analysis import analyse
from echojax.analysis.attribution import by_age
from echojax.models.echomamba4rec import Components
from echojax.models.positions import at_position
from tests.analysis.small_models import BATCH, INSIDE, LENGTH, build
from tests.models.promises import every_model

IDS, LENGTHS, TARGETS = (BATCH[name] for name in ("item_ids", "lengths", "targets"))


def norms(gradient, x):
    return np.linalg.norm(gradient, axis=-1) * np.linalg.norm(x, axis=-1)


def differences(score, x, step):
    """Return d score / d x of every element by central differences."""
    directions = step * np.eye(x.size).reshape(-1, *x.shape)
    ahead, behind = (
        np.array([score(x + sign * direction) for direction in directions]) for sign in (1, -1)
    )
    return ((ahead - behind) / (2 * step)).reshape(*x.shape, *ahead.shape[1:])


# Attribution asks of a model only what all of them promise.
@pytest.mark.parametrize("name", every_model("echomamba4rec", "sasrec"))
def test_attribution_to_events_is_that_of_finite_differences(name):
    model = build(name)
    graphdef, params = nnx.split(model)
    target_BxD = model.output_embeddings()[TARGETS]

    @jax.jit
    def scores(table_VxD):
        moved = nnx.merge(graphdef, params)
        moved.item_embedding = nnx.Param(table_VxD)
        return jnp.sum(moved.encode(IDS, LENGTHS) * target_BxD, axis=-1)

    table_VxD = np.asarray(model.item_embedding[...])
    slope_VxDxB = differences(scores, table_VxD, 1e-6)
    rows = np.arange(len(IDS))[:, None]
    expected = norms(np.moveaxis(slope_VxDxB, -1, 0)[rows, IDS], table_VxD[IDS]) * INSIDE
    np.testing.assert_allclose(
        analyse(model, BATCH).attribution["events"], expected, rtol=1e-5, atol=1e-5 * expected.max()
    )


@pytest.mark.parametrize("variant", ["echojax", pytest.param("official", marks=pytest.mark.slow)])
def test_attribution_through_each_direction_is_that_of_finite_differences(variant):
    model = build("echomamba4rec", variant)
    layer, target_BxD = model.layers[0], model.output_embeddings()[TARGETS]
    pair, padded = layer.mambas[0], IDS == 0
    ends = None if variant == "official" else jnp.asarray(LENGTHS)

    def read(events_BxLxD):
        x = model.norm(events_BxLxD)
        if variant == "official":
            return layer.filter(x)
        x = layer.filter(jnp.where(padded[..., None], 0, x))
        return jnp.where(padded[..., None], 0, x)

    @jax.jit
    def score(ahead_events, back_events, ahead_shift, back_shift):
        """Return the scores when the forward and the backward Mamba read unlike histories."""
        ahead_BxLxD, back_BxLxD = read(ahead_events) + ahead_shift, read(back_events) + back_shift
        last = jnp.asarray(LENGTHS - 1)
        place = last if variant == "official" else jnp.zeros_like(last)
        ahead = pair.forward.readout(ahead_BxLxD, last) + at_position(ahead_BxLxD, last)
        back = pair.backward.readout(back_BxLxD, place, ends, reverse=True)
        back = back + at_position(back_BxLxD, last)
        user_BxD = layer.glu(pair.norm_forward(ahead) + pair.norm_backward(back))
        return jnp.sum(user_BxD * target_BxD)

    events = np.asarray(model.item_embedding[...])[IDS]
    x, still = np.asarray(jax.jit(read)(events)), np.zeros((4, LENGTH, 8))

    def expected(score, x, at):
        return norms(differences(score, at, 1e-6), x)

    moved = {
        "events/forward": expected(lambda e: score(e, events, still, still), events, events),
        "events/backward": expected(lambda e: score(events, e, still, still), events, events),
        "read/forward": expected(lambda r: score(events, events, r, still), x, still),
        "read/backward": expected(lambda r: score(events, events, still, r), x, still),
        "read": expected(lambda r: score(events, events, r, r), x, still),
    }
    found = analyse(model, BATCH).attribution
    assert set(found) == {"events", *moved}
    for name, values in moved.items():
        if name.startswith("events"):  # padding's row is no event
            values = values * INSIDE
        np.testing.assert_allclose(
            found[name], values, rtol=1e-5, atol=1e-8 * values.max(), err_msg=name
        )


def test_officials_backward_mamba_has_seen_padding_and_no_history():
    moved = analyse(build("echomamba4rec", "official"), BATCH).attribution
    earlier = np.arange(LENGTH) < LENGTHS[:, None] - 1
    assert (moved["read/backward"][earlier] == 0).all()
    assert (moved["read/backward"][~earlier] > 0).all()
    assert (moved["read/forward"][INSIDE] > 0).all()
    assert (moved["read/forward"][~INSIDE] == 0).all()
    assert (moved["events/backward"][earlier] > 0).all()  # the filter carries them


def test_corrected_reads_all_of_the_history_and_no_padding_in_two_layers():
    found = analyse(build("echomamba4rec", layers=2), BATCH)
    assert {*found.dt_Kx2} == {f"{i}/{way}" for i in (0, 1) for way in ("forward", "backward")}
    moved = found.attribution
    for level in ("events", "read"):
        for way in ("", "/forward", "/backward"):
            assert (moved[level + way][INSIDE] > 0).all()
            assert (moved[level + way][~INSIDE] == 0).all()


@pytest.mark.slow
def test_directions_stay_apart_in_every_mamba_of_a_deep_model():
    model = build("echomamba4rec", "official", layers=2, components=Components(filter=False))
    found = analyse(model, BATCH)
    assert {f"{i}/{way}" for i in range(4) for way in ("forward", "backward")} == {*found.dt_Kx2}
    moved = found.attribution
    earlier = np.arange(LENGTH) < LENGTHS[:, None] - 1
    assert (moved["read"] > 0).all()
    assert (moved["read/forward"][~INSIDE] == 0).all()
    assert (moved["read/forward"][INSIDE] > 0).all()
    for level in ("read", "events"):
        assert (moved[f"{level}/backward"][earlier] == 0).all()


def test_an_item_met_twice_is_two_events():
    model = build("sasrec")
    table = model.item_embedding[...]
    model.item_embedding = nnx.Param(table.at[10].set(table[3]))
    once, twice = ([[3, 1, other, 0, 0, 0, 0]] * 4 for other in (10, 3))
    short = {**BATCH, "lengths": np.full(4, 3, np.int32)}
    found = [
        analyse(model, {**short, "item_ids": np.array(ids, np.int32)}).attribution["events"]
        for ids in (once, twice)
    ]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_shares_by_age():
    lengths_B = np.array([1, 3, 4, 4])
    rng = np.random.default_rng(0)
    whole_BxL, part_BxL = rng.random((2, 4, 4))
    found = {place: [] for place in ("padding", 1, 2, 3, "first")}
    for row, length in enumerate(lengths_B):
        share = part_BxL[row] / whole_BxL[row].sum()
        if length < 4:
            found["padding"].append(share[length:].sum())
        for position in range(length):
            age = length - position
            found["first" if position == 0 and length > 1 else age].append(share[position])
    means = [np.mean(found[place]) for place in ("padding", 1, 2, 3)]
    shares = by_age(part_BxL, lengths_B, whole_BxL)
    np.testing.assert_allclose(shares, [*means, np.nan, np.mean(found["first"])])


def test_a_history_without_any_attribution_counts_as_nothing():
    shares = by_age(np.zeros((1, 2)), np.array([2]), np.zeros((1, 2)))
    np.testing.assert_array_equal(shares, [np.nan, 0, np.nan, 0])
