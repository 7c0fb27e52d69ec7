import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echojax.data import leave_one_out
from echojax.evaluation.baselines import rank_in_scores
from echojax.evaluation.ranking import TOP, Ranked, make_ranker, rank_examples, seen

USERS, WIDTH = 4, 3


def encode(params, item_ids_BxL, lengths_B):
    """Return vectors that the parameters hold for each row of the batch."""
    return params["user"]


def items(params):
    return params["item"]


RANKERS = {tile: make_ranker(encode, items, tile=tile) for tile in (3, 16, 2**15)}


def rank(ranker, user_BxD, item_VxD, targets_B, excluded_BxS):
    params = {"user": jnp.asarray(user_BxD), "item": jnp.asarray(item_VxD)}
    batch = len(user_BxD)
    histories = np.zeros((batch, 1), np.int32), np.ones(batch, np.int32)
    found = ranker(params, *histories, np.asarray(targets_B), np.asarray(excluded_BxS))
    return Ranked(*map(np.asarray, found))


@st.composite
def catalogues(draw):
    """Draw vectors of small whole numbers, so that products are exact and ties common."""
    num_items = draw(st.sampled_from([2, 5, 16, 41]))  # few sizes, few compilations
    number = st.integers(-2, 2)
    row = st.lists(number, min_size=WIDTH, max_size=WIDTH)
    odd = st.sampled_from([[np.nan] * WIDTH, [np.inf] * WIDTH, [-np.inf] * WIDTH])
    rows = st.lists(st.one_of(row, row, row, odd), min_size=num_items, max_size=num_items)
    user = np.array(draw(st.lists(row, min_size=USERS, max_size=USERS)), np.float32)
    target = st.lists(st.integers(1, num_items - 1), min_size=USERS, max_size=USERS)
    excluded = st.lists(
        st.lists(st.integers(0, num_items - 1), min_size=4, max_size=4),
        min_size=USERS,
        max_size=USERS,
    )
    item = np.array(draw(rows), np.float32)
    return user, item, np.array(draw(target), np.int32), np.array(draw(excluded), np.int32)


def first_of_softmax(scores, target, excluded):
    """Return the largest probability of the softmax over the candidates; 0 of none or infinity."""
    shown = [v for v in range(1, len(scores)) if v == target or v not in set(excluded)]
    logits = [float(scores[v]) for v in shown if scores[v] > -np.inf]
    if not logits or np.inf in logits:
        return 0
    return np.exp(max(logits)) / np.sum(np.exp(logits))


@pytest.mark.parametrize("tile", RANKERS)
@given(catalogue=catalogues())
@settings(max_examples=60, deadline=None)
def test_jitted_ranks_follow_the_definition_and_equal_the_twin(by_definition, tile, catalogue):
    user, item, targets, excluded = catalogue
    with np.errstate(invalid="ignore"):  # infinity times zero
        scores = user @ item.T
    ours = rank(RANKERS[tile], user, item, targets, excluded)
    twin = rank_in_scores(scores, targets, excluded)
    np.testing.assert_array_equal(ours.rank_M, twin.rank_M)
    np.testing.assert_array_equal(ours.top_MxK, twin.top_MxK)
    for b in range(USERS):
        expected, top = by_definition(scores[b], targets[b], excluded[b])
        assert ours.rank_M[b] == expected
        assert ours.top_MxK[b].tolist() == top
        assert ours.confidence_M[b] == pytest.approx(
            first_of_softmax(scores[b], targets[b], excluded[b])
        )


@pytest.mark.parametrize(
    ("tile", "num_items"), [(7, 97), (64, 1003), (1000, 1003), (2**15, 2), (2**15, 1003)]
)
def test_a_constant_scorer_gets_the_last_rank_in_spite_of_rounding(tile, num_items):
    rng = np.random.default_rng(0)
    item = np.tile(rng.normal(size=64).astype(np.float32), (num_items, 1))
    user = rng.normal(size=(33, 64)).astype(np.float32)
    targets = rng.integers(1, num_items, 33).astype(np.int32)
    ranker = make_ranker(encode, items, tile=tile)
    ranked = rank(ranker, user, item, targets, np.zeros((33, 1), np.int32))
    assert ranked.rank_M.tolist() == [num_items - 1] * 33
    assert ranked.top_MxK[0].tolist() == [*range(1, min(num_items, TOP + 1))] + [0] * max(
        0, TOP + 1 - num_items
    )


def test_tiles_of_every_size_agree_on_real_numbers():
    rng = np.random.default_rng(1)
    user, item = rng.normal(size=(20, 64)), rng.normal(size=(500, 64))
    user, item = user.astype(np.float32), item.astype(np.float32)
    targets, none = rng.integers(1, 500, 20), np.zeros((20, 1), np.int32)
    results = [
        rank(make_ranker(encode, items, tile=tile), user, item, targets, none)
        for tile in (1, 77, 500)
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result.rank_M, results[0].rank_M)
        np.testing.assert_array_equal(result.top_MxK, results[0].top_MxK)


@pytest.mark.parametrize("tile", [3, 16])
def test_rows_after_the_last_item_are_no_candidates(tile):
    item = np.array([[0], [1], [2], [3], [9], [9]], np.float32)
    ranker = make_ranker(encode, items, num_items=4, tile=tile)
    ranked = rank(ranker, np.ones((3, 1), np.float32), item, [1, 2, 3], np.zeros((3, 1), np.int32))
    assert ranked.rank_M.tolist() == [3, 2, 1]
    assert ranked.top_MxK.tolist() == [[3, 2, 1] + [0] * 7] * 3


def test_as_many_are_kept_as_asked_for():
    item = np.array([[0], [1], [2], [3], [4]], np.float32)
    ranker = make_ranker(encode, items, top=3, tile=2)
    ranked = rank(ranker, np.ones((1, 1), np.float32), item, [1], np.zeros((1, 1), np.int32))
    twin = rank_in_scores(np.arange(5.0)[None], np.array([1]), top=3)
    assert ranked.top_MxK.tolist() == twin.top_MxK.tolist() == [[4, 3, 2]]
    assert ranked.confidence_M[0] == pytest.approx(np.exp(4) / np.exp([1, 2, 3, 4]).sum())


def test_low_precision_models_are_ranked_in_float32():
    item = jnp.array([[0, 0], [256, 0], [256, 1], [256, 1]], jnp.bfloat16)
    user = jnp.ones((1, 2), jnp.bfloat16)  # 256 and 257 are one number in bfloat16
    ranked = rank(RANKERS[16], user, item, [2], np.zeros((1, 1), np.int32))
    assert ranked.rank_M.tolist() == [2]


def test_memory_does_not_grow_with_the_catalogue():
    def temporary_bytes(num_items):
        params = {
            "user": jax.ShapeDtypeStruct((64, 16), jnp.float32),
            "item": jax.ShapeDtypeStruct((num_items, 16), jnp.float32),
        }
        whole = [
            jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((64, 1), (64,), (64,), (64, 8))
        ]
        compiled = make_ranker(encode, items, tile=1024).lower(params, *whole).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(400_000) < 1.2 * temporary_bytes(20_000)


@pytest.fixture
def examples(make_dataset):
    rng = np.random.default_rng(2)
    lengths = rng.integers(4, 40, 23)
    histories = [rng.integers(1, 50, n).tolist() for n in lengths]
    return leave_one_out(make_dataset(histories, 50), max_len=8).test


def last_item(params, item_ids_BxL, lengths_B):
    """Return the vector of the last item."""
    last_B = jnp.take_along_axis(item_ids_BxL, lengths_B[:, None] - 1, axis=1)[:, 0]
    return params[last_B]


@pytest.mark.parametrize("exclude_seen", [pytest.param(False, marks=pytest.mark.slow), True])
def test_batches_of_any_size_give_the_same_ranks(examples, exclude_seen):
    table = jnp.asarray(np.random.default_rng(3).normal(size=(50, 6)), jnp.float32)
    ranker = make_ranker(last_item, lambda params: params)
    whole = rank_examples(ranker, table, examples, batch_size=23, exclude_seen=exclude_seen)
    assert whole.rank_M.shape == (23,)
    assert whole.top_MxK.shape == (23, TOP)
    for batch_size in (5, 64):
        part = rank_examples(
            ranker, table, examples, batch_size=batch_size, exclude_seen=exclude_seen
        )
        np.testing.assert_array_equal(part.rank_M, whole.rank_M)
        np.testing.assert_array_equal(part.top_MxK, whole.top_MxK)


def test_seen_items_are_left_out_of_the_whole_history(examples):
    table = jnp.asarray(np.random.default_rng(4).normal(size=(50, 6)), jnp.float32)
    ranker = make_ranker(last_item, lambda params: params)
    ranked = rank_examples(ranker, table, examples, batch_size=23, exclude_seen=True)
    for m, shown in enumerate(ranked.top_MxK):
        history = examples.items_T[examples.start_M[m] : examples.target_M[m]]
        target = examples.items_T[examples.target_M[m]]
        assert not set(shown.tolist()) & (set(history.tolist()) - {int(target)})


def test_the_last_batch_is_not_compiled_anew(examples):
    traces = []

    def counted(params, item_ids_BxL, lengths_B):
        traces.append(item_ids_BxL.shape)
        return last_item(params, item_ids_BxL, lengths_B)

    ranker = make_ranker(counted, lambda params: params)
    for _ in range(2):
        rank_examples(ranker, jnp.ones((50, 6)), examples, batch_size=10)
    assert traces == [(10, 8)]


def test_widths_of_seen_items_are_powers_of_two(examples):
    for rows in (np.array([0]), np.arange(5), np.arange(23)):
        table = seen(examples, rows)
        longest = int((examples.target_M - examples.start_M)[rows].max())
        assert longest <= table.shape[1] < 2 * longest
        assert table.shape[1].bit_count() == 1
        for row, m in zip(table, rows, strict=True):
            history = examples.items_T[examples.start_M[m] : examples.target_M[m]]
            np.testing.assert_array_equal(row[: history.size], history)
            assert not row[history.size :].any()
