"""What every neural model promises, as tests to inherit: classes that are not collected here."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from echojax.models import MODELS
from echojax.models.base import CausalModel, check_histories

ITEMS = 10
IDS = np.array(
    [[3, 1, 4, 1, 5, 0, 0], [9, 2, 6, 5, 3, 5, 8], [7, 0, 0, 0, 0, 0, 0], [2, 7, 1, 8, 2, 8, 0]],
    np.int32,
)
LENGTHS = np.array([5, 7, 1, 6], np.int32)
# Log gaps, from none over shorter ones than the unit to some thousand units.
GAPS = np.random.default_rng(4).exponential(2.0, IDS.shape).astype(np.float32)
GAPS *= (np.arange(7) > 0) & (np.arange(7) < LENGTHS[:, None])
GAPS[1, 3] = 0
HISTORIES = [row[:length].tolist() for row, length in zip(IDS, LENGTHS, strict=True)]
KEYS = jax.random.split(jax.random.key(0), len(IDS))


def every_model(*fast):
    """Return the names of all models to parametrize by, those in the fast tier as given."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in fast)) for name in MODELS]


# For what is promised of all models by code that they share: of those made of the same layers, one
# is in the fast tier.
EVERY_MODEL = every_model("echomamba4rec", "sasrec", "gru4rec")


def assert_close(actual, desired):
    """Compare vectors that were computed in float32 in two ways, at the scale of the largest."""
    scale = max(1.0, float(np.max(np.abs(desired))))
    np.testing.assert_allclose(actual, desired, rtol=2e-5, atol=2e-6 * scale)


def filled(make, dtype="float32", noise=0.5):
    """Return a model whose every parameter shows; initial values would be far too small.

    They are not even drawn: that compiles a program for each shape.
    """
    graphdef, params = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        values = noise * rng.normal(size=leaf.shape)
        values += "scale" in jax.tree_util.keystr(path)
        return jax.device_put(values.astype(dtype))  # ``jnp.asarray`` would compile, too

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(fill, params))


@functools.cache
def build(kind, dropout=0.0, **sizes):
    """Return a model that is filled, in float32."""
    return filled(
        functools.partial(kind, ITEMS, d_model=8, dropout=dropout, **{"max_len": 7} | sizes)
    )


@functools.cache
def compiled(kind, method="encode", **options):
    """Return a method of the built model, jitted; it returns NumPy's arrays, to take rows from.

    The model is quick to compile: of one layer, and with the scan that is. The equations are those
    of as many layers as a user has, and of the scan that a user has.
    """
    quick = {"layers": 1, "scan": "sequential"}
    options |= {name: quick[name] for name in inspect.signature(kind).parameters.keys() & quick}
    jitted = jax.jit(getattr(build(kind, **options), method))
    return lambda *arguments, **named: np.asarray(jitted(*arguments, **named))


def float64(kind, **sizes):
    """Return the built model's structure and its parameters in float64."""
    graphdef, params = nnx.split(build(kind, **sizes))
    return graphdef, jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def by_name(params):
    """Return parameters as nested dictionaries of NumPy arrays."""
    return jax.tree.map(np.asarray, nnx.to_pure_dict(params))


def with_other_company(row):
    """Return IDS, LENGTHS and KEYS with all rows changed but one."""
    others = np.arange(len(IDS)) != row
    ids = np.where(others[:, None], np.roll(IDS, 1, axis=0)[:, ::-1] % 9 + 1, IDS)
    lengths = np.where(others, 7, LENGTHS)
    keys = jax.random.split(jax.random.key(1), len(IDS))
    return ids.astype(np.int32), lengths.astype(np.int32), keys.at[row].set(KEYS[row])


class Promises:
    """For a subclass that sets ``kind`` and the equations of its paper.

    ``encode(p, items)`` and ``output_embeddings(p)`` compute in float64, for one history that knows
    of no padding, from parameters by name.
    """

    kind: type
    max_len = 7
    gaps = None  # what the model is given, and each history's what ``encode`` is

    def encode(self, p, items):
        raise NotImplementedError

    def output_embeddings(self, p):
        return p["item_embedding"]

    def scores(self, params):
        """Return the scores of HISTORIES by the equations."""
        p, gaps = by_name(params), [] if self.gaps is None else [self.gaps]
        users = [
            self.encode(p, items, *[one[row, : len(items)] for one in gaps])
            for row, items in enumerate(HISTORIES)
        ]
        return np.stack([self.output_embeddings(p) @ user for user in users])

    @pytest.mark.usefixtures("x64")
    def test_scores_and_their_gradient_are_those_of_the_equations(self):
        graphdef, params = float64(self.kind, max_len=self.max_len)
        weights = np.random.default_rng(2).normal(size=(len(IDS), ITEMS))

        @jax.jit
        @functools.partial(jax.grad, has_aux=True)
        def gradient(params):
            scores = nnx.merge(graphdef, params).scores(IDS, LENGTHS, self.gaps)
            return jnp.sum(weights * scores), scores

        slopes, ours = gradient(params)
        assert ours.dtype == jnp.float64
        np.testing.assert_allclose(ours, self.scores(params), rtol=1e-9, atol=1e-9)
        leaves, structure = jax.tree.flatten(params)
        names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
        # One direction for each parameter, so that none can hide behind the others.
        for i, slope in enumerate(jax.tree.leaves(slopes)):
            direction = np.random.default_rng(i).normal(size=leaves[i].shape)
            if "item_embedding" in names[i]:
                direction[0] = 0  # a lookup never trains padding's row

            def value(step, i=i, direction=direction):
                moved = [*leaves[:i], leaves[i] + step * direction, *leaves[i + 1 :]]
                return np.sum(weights * self.scores(jax.tree.unflatten(structure, moved)))

            difference = (value(1e-5) - value(-1e-5)) / 2e-5
            found = np.vdot(slope, direction)
            np.testing.assert_allclose(found, difference, 1e-6, 1e-6, err_msg=names[i])

    def test_scores_of_what_means_nothing_are_refused_and_of_nothing_are_none(self):
        model = build(self.kind)
        refuses_what_means_nothing(model.scores)
        check_histories(IDS[:0], LENGTHS[:0], ITEMS)  # which only reads what is no tracer
        assert jax.eval_shape(model.scores, IDS[:0], LENGTHS[:0]).shape == (0, ITEMS)
        if isinstance(model, CausalModel) and not model.not_causal:
            assert jax.eval_shape(model.encode_all, IDS[:0], LENGTHS[:0]).shape[:2] == (0, 7)

    def test_padding_and_columns_do_not_matter(self):
        encode = compiled(self.kind)
        short = LENGTHS < 7
        assert_close(encode(IDS[short, :6], LENGTHS[short]), encode(IDS, LENGTHS)[short])
        # Even items behind the end are nobody's history.
        littered = np.where(IDS == 0, 4, IDS)
        assert_close(encode(littered, LENGTHS), encode(IDS, LENGTHS))

    def test_longer_histories_are_refused(self):
        with pytest.raises(ValueError, match="histories of 8 items, but max_len is 7"):
            build(self.kind).encode(np.ones((1, 8), np.int32), np.array([8], np.int32))

    def test_rows_do_not_meet_and_dropout_follows_each_ones_key(self):
        follows_keys(compiled(self.kind, dropout=0.5), compiled(self.kind))


class CausalPromises(Promises):
    """For models with a vector at every position."""

    def test_all_positions_are_the_encoded_prefixes(self):
        everywhere = compiled(self.kind, "encode_all")(IDS, LENGTHS, gaps_BxL=self.gaps)
        for stop in range(1, 8):
            prefix = np.where(np.arange(7) < stop, IDS, 0)
            one = compiled(self.kind)(prefix, np.minimum(stop, LENGTHS), gaps_BxL=self.gaps)
            reached = stop <= LENGTHS
            assert_close(one[reached], everywhere[reached, stop - 1])

    def test_dropout_follows_each_rows_key_at_all_positions(self):
        follows_keys(
            compiled(self.kind, "encode_all", dropout=0.5), compiled(self.kind, "encode_all")
        )


class TimedPromises(Promises):
    """For models that read the times between events, as far as these change what is promised."""

    gaps = GAPS

    test_scores_of_what_means_nothing_are_refused_and_of_nothing_are_none = None
    test_padding_and_columns_do_not_matter = test_longer_histories_are_refused = None
    test_rows_do_not_meet_and_dropout_follows_each_ones_key = None

    def test_no_prefix_reads_a_later_gap_and_each_reads_the_earlier_ones(self):
        encode = compiled(self.kind)
        for stop in range(1, 8):
            ids, lengths = np.where(np.arange(7) < stop, IDS, 0), np.minimum(stop, LENGTHS)
            own = encode(ids, lengths, gaps_BxL=np.where(ids > 0, GAPS, 0))
            littered = np.where(ids > 0, GAPS, 3.0).astype(np.float32)
            later = encode(ids, lengths, gaps_BxL=littered)
            assert_close(later, own)
            for earlier in range(1, stop):
                changed = GAPS + (np.arange(7) == earlier).astype(np.float32)
                other = encode(ids, lengths, gaps_BxL=changed)
                reads = earlier < lengths
                assert (np.abs(other - own)[reads].max(axis=1) > 1e-5).all()

    def test_gaps_are_wanted(self):
        with pytest.raises(ValueError, match=r"reads the times between events; check gaps_BxL"):
            build(self.kind).encode(IDS, LENGTHS)


class TimedCausalPromises(TimedPromises, CausalPromises):
    """For those with a vector at every position."""

    test_dropout_follows_each_rows_key_at_all_positions = None


def refuses_what_means_nothing(scores):
    """Check the scores of a model of ITEMS items for numbers that mean nothing."""
    row = np.array([[1, 2, 0]], np.int32)
    for item in (ITEMS, -1, 10**6):
        with pytest.raises(ValueError, match=rf"^item {item} is not in the table: .* 1 to 9"):
            scores(np.array([[1, item, 0]], np.int32), np.array([2]))
    with pytest.raises(ValueError, match=r"^item numbers are integers, not float64; convert them$"):
        scores(np.array([[1, 1.5, 0]]), np.array([2]))
    for length in (0, 4, -1):
        with pytest.raises(ValueError, match=rf"^a history of length {length}: it must be 1 to 3"):
            scores(row, np.array([length]))


def follows_keys(encode, without):
    """Check that a row's own history and key, and nothing else, decide its vector."""
    dropped = encode(IDS, LENGTHS, dropout_keys=KEYS)
    for row, length in enumerate(LENGTHS):
        ids, lengths, keys = with_other_company(row)
        same = encode(ids, lengths, dropout_keys=keys)[row]
        other = encode(IDS, LENGTHS, dropout_keys=jnp.roll(KEYS, 1))[row]
        if same.ndim == 2:  # what stands behind a history means nothing
            same, other = same[:length], other[:length]
        expected = dropped[row][: len(same)]
        assert_close(same, expected)
        assert not np.allclose(other, expected, atol=1e-3)
    assert not np.allclose(without(IDS, LENGTHS), dropped, atol=1e-3)
