"""A stream of events against full passes over the same events."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from echojax.data.gaps import log_gaps
from echojax.errors import UserError
from echojax.models.bert4rec import BERT4Rec
from echojax.models.caser import Caser
from echojax.models.echomamba4rec import VARIANTS, Components, Corrections, EchoMamba4Rec
from echojax.models.esasrec import ESASRec
from echojax.models.fmlprec import FMLPRec
from echojax.models.gru4rec import GRU4Rec
from echojax.models.hstu import HSTU
from echojax.models.mamba4rec import Mamba4Rec
from echojax.models.narm import NARM
from echojax.models.sasrec import SASRec
from echojax.serving.streaming import Stream
from tests.models.promises import ITEMS, build

EVENTS, WINDOW = 11, 6
# Three users; 0 is a turn without an event, and the second one begins late.
TURNS = np.array(
    [
        [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5],
        [0, 0, 7, 2, 0, 7, 1, 8, 0, 2, 8],
        [6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
    np.int32,
)
SMALL = {"d_state": 4}
NO_FILTER = Components(filter=False)
# Streams that remember everything, and those that read the newest max_len events.
ENDLESS = {
    "mamba4rec": (Mamba4Rec, SMALL),
    "mamba4rec-2-layers": (Mamba4Rec, SMALL | {"layers": 2}),
    "gru4rec": (GRU4Rec, {"layers": 2}),
    "caser": (Caser, {"window": 3}),
    "echomamba4rec": (EchoMamba4Rec, SMALL | {"components": NO_FILTER}),
    "echomamba4rec-causal": (EchoMamba4Rec, SMALL | {"corrections": VARIANTS["causal"]}),
    "echomamba4rec-1-tap": (EchoMamba4Rec, SMALL | {"components": NO_FILTER, "d_conv": 1}),
    "echomamba4rec-forward": (
        EchoMamba4Rec,
        SMALL | {"components": Components(filter=False, backward=False), "layers": 2},
    ),
}
WINDOWED = {
    "sasrec": (SASRec, {}),
    "esasrec": (ESASRec, {}),
    "hstu": (HSTU, {}),
    "narm": (NARM, {}),
}
ALL = ENDLESS | WINDOWED
# Of two that are made of the same layers, one is in the fast tier.
SLOW = {
    "mamba4rec",
    "mamba4rec-2-layers",
    "echomamba4rec-1-tap",
    "echomamba4rec-forward",
    "esasrec",
    "hstu",
}
EVERY_STREAM = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ALL]
# Of the largest component.
FLOAT32, FLOAT64 = 2e-5, 1e-10


def max_len(name):
    return WINDOW if name in WINDOWED else EVENTS


@functools.cache
def stream_of(name, dtype):
    """Return a stream and the full pass of the same parameters, both compiled once."""
    kind, sizes = ALL[name]
    graphdef, params = nnx.split(build(kind, max_len=max_len(name), **sizes))
    model = nnx.merge(graphdef, jax.tree.map(lambda x: jnp.asarray(x, dtype), params))
    return Stream(model), jax.jit(model.encode)


def full_pass(name, encode, turns):
    """Return the vectors of a full pass, (B, D), and who has had an event."""
    longest = max_len(name)
    ids, lengths = np.zeros((len(turns), longest), np.int32), np.ones(len(turns), np.int32)
    ids[:, 0] = 1
    for row, items in enumerate(turns):
        newest = items[items > 0][-longest:]
        if newest.size:
            ids[row], lengths[row] = np.pad(newest, (0, longest - newest.size)), newest.size
    return np.asarray(encode(ids, lengths)), (turns > 0).any(axis=1)


def check(name, stream, encode, turns, tolerance):
    """Compare each turn with a full pass over what users have seen so far."""
    state = stream.start(len(turns))
    for turn in range(turns.shape[1]):
        state, users = stream.add(state, turns[:, turn])
        np.testing.assert_array_equal(state.user_BxD, users)
        expected, begun = full_pass(name, encode, turns[:, : turn + 1])
        error = np.abs(users - expected)[begun].max(initial=0)
        assert error <= tolerance * np.abs(expected).max(), (turn, error)
        np.testing.assert_array_equal(users[~begun], 0)
    return state


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", EVERY_STREAM)
def test_in_float64_it_is_the_same_number(name):
    state = check(name, *stream_of(name, "float64"), TURNS, FLOAT64)
    assert all(x.dtype in (jnp.float64, jnp.int32) for x in jax.tree.leaves(state))


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(sorted(ALL.keys() - SLOW)),
    lengths=st.lists(st.integers(0, EVENTS), min_size=3, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_any_lengths(name, lengths, seed):
    rng = np.random.default_rng(seed)
    turns = rng.integers(1, ITEMS, TURNS.shape).astype(np.int32)
    for row, length in zip(turns, lengths, strict=True):
        row[rng.choice(EVENTS, EVENTS - length, replace=False)] = 0
    with jax.enable_x64(True):
        check(name, *stream_of(name, "float64"), turns, FLOAT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["mamba4rec", "echomamba4rec", "sasrec"])
def test_reading_is_adding(name):
    stream, _ = stream_of(name, "float64")
    added = stream.start(len(TURNS))
    for turn in range(EVENTS):
        added, _ = stream.add(added, TURNS[:, turn])
    read = stream.read(stream.start(len(TURNS)), TURNS)
    close = {"rtol": FLOAT64, "atol": FLOAT64}
    np.testing.assert_allclose(read.user_BxD, added.user_BxD, **close)
    # What lies behind a row's items in a cache means nothing; the next event tells.
    item_B = np.array([2, 3, 4], np.int32)
    users = [stream.add(state, item_B)[1] for state in (read, added)]
    np.testing.assert_allclose(*users, **close)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["gru4rec", "echomamba4rec"])
def test_events_behind_max_len_are_remembered(name):
    kind, sizes = ALL[name]
    short = nnx.split(build(kind, max_len=3, **sizes))[0]
    params = nnx.split(build(kind, max_len=EVENTS, **sizes))[1]
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    stream = Stream(nnx.merge(short, params))
    check(name, stream, stream_of(name, "float64")[1], TURNS, FLOAT64)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        pytest.param("mamba4rec", 60.0, marks=pytest.mark.slow),
        ("echomamba4rec-causal", 3.0),
        pytest.param("hstu", 60.0, marks=pytest.mark.slow),
    ],
)
def test_times_are_read_as_those_of_whole_histories(name, unit):
    (kind, sizes), longest = ALL[name], max_len(name)
    model = build(kind, max_len=longest, time_gaps=True, **sizes)
    stream, encode = Stream(model, unit), jax.jit(model.encode)
    rng = np.random.default_rng(0)
    waits = np.where(rng.random(TURNS.shape) < 0.3, 0, rng.exponential(9, TURNS.shape) ** 3)
    times = 1_700_000_000 + np.cumsum(waits.astype(np.int64), axis=1)
    state, add = stream.start(len(TURNS)), jax.jit(stream.add, donate_argnums=0)
    for turn in range(EVENTS):
        if turn % 2:
            state, users = add(state, TURNS[:, turn], stream.times(times[:, turn]))
        else:
            state, users = stream.add(state, TURNS[:, turn], times[:, turn])
        for row, user in enumerate(np.asarray(users)):
            past = np.flatnonzero(TURNS[row, : turn + 1])[-longest:]
            items, gaps = np.zeros((1, longest), np.int32), np.zeros((1, longest), np.float32)
            items[0, : past.size] = TURNS[row, past]
            gaps[0, : past.size] = log_gaps(times[row, past], unit)
            if past.size:
                expected = np.asarray(encode(items, np.array([past.size]), gaps_BxL=gaps))[0]
                assert np.abs(user - expected).max() <= FLOAT32 * np.abs(expected).max(), turn
    read = stream.read(stream.start(len(TURNS)), TURNS, times)
    np.testing.assert_allclose(read.user_BxD, state.user_BxD, rtol=1e-4, atol=1e-4)
    for wrong in (None, times[:, 0] * np.nan, times[:2, 0]):
        with pytest.raises(ValueError, match="reads times, and every event needs a finite one"):
            stream.add(read, np.array([1, 2, 3]), wrong)
    with pytest.raises(UserError, match="reads times: give the gap_unit of its run"):
        Stream(model)


@pytest.mark.parametrize("name", EVERY_STREAM)
def test_a_first_state_can_be_donated(name):
    leaves = jax.tree.leaves(stream_of(name, "float32")[0].start(2))
    places = [leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size]
    assert len(set(places)) == len(places)


def test_an_old_state_can_be_used_again_unless_it_is_donated():
    stream, _ = stream_of("sasrec", "float32")
    item_B = np.array([3, 4, 5], np.int32)
    state, _ = stream.add(stream.start(3), TURNS[:, 0])
    once, again = (stream.add(state, item_B)[1] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    _, in_place = jax.jit(stream.add, donate_argnums=0)(state, item_B)
    np.testing.assert_allclose(in_place, once, rtol=FLOAT32, atol=FLOAT32)
    assert state.model[0].key_BxHxLxK.is_deleted()


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (BERT4Rec, {}, "BERT4Rec cannot be streamed: its attention looks both ways"),
        (FMLPRec, {}, "FMLPRec cannot be streamed: its filters change every position"),
        (EchoMamba4Rec, {}, "EchoMamba4Rec cannot be streamed: its filter changes every position"),
        (EchoMamba4Rec, {"components": NO_FILTER, "layers": 2}, "its backward Mamba changes every"),
        (
            EchoMamba4Rec,
            {"components": NO_FILTER, "corrections": Corrections(join_both_ends=False)},
            "its backward Mamba does not run from the last item to the first",
        ),
        (
            EchoMamba4Rec,
            {"components": NO_FILTER, "corrections": Corrections(reverse_from_last=False)},
            "its backward Mamba does not run from the last item to the first",
        ),
    ],
)
def test_what_cannot_be_streamed_is_refused(kind, options, says):
    with pytest.raises(UserError, match=says):
        Stream(build(kind, **options))


def test_events_that_mean_nothing_are_refused():
    stream, _ = stream_of("sasrec", "float32")
    state = stream.start(3)
    for items in ([1, ITEMS, 2], [1, -1, 2]):
        with pytest.raises(ValueError, match="is not in the table: items are numbered 1 to"):
            stream.add(state, np.array(items))
        with pytest.raises(ValueError, match="is not in the table: items are numbered 1 to"):
            stream.read(state, np.array([items] * 3))
    with pytest.raises(ValueError, match="item numbers are integers, not float32"):
        stream.add(state, np.array([1, 2.5, 2], np.float32))
    with pytest.raises(ValueError, match="events of 1 users, but the state is that of 3"):
        stream.add(state, np.array([1]))
    for call, items, wanted in (
        (stream.add, 1, r"\(\); \(B,\)"),
        (stream.add, [[1], [2], [3]], r"\(3, 1\); \(B,\)"),
        (stream.read, [1, 2, 3], r"\(3,\); \(B, L\)"),
    ):
        with pytest.raises(ValueError, match=f"items have shape {wanted} expected"):
            call(state, np.array(items))
    nobody, users = stream.add(stream.start(0), np.zeros(0, np.int32))
    assert users.shape == nobody.user_BxD.shape == (0, 8)
