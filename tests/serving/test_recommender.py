import tracemalloc

import numpy as np
import pytest

from echojax import Recommender
from echojax.errors import UserError
from echojax.serving import recommender as recommender_module


@pytest.fixture(scope="module")
def recommender(ring_run):
    return Recommender.load(ring_run, batch_size=4)


def test_it_has_learned_the_ring(recommender):
    (answer,) = recommender.recommend([["i3", "i4", "i5"]], k=3)
    assert answer.by == "model"
    assert answer.unknown == 0
    assert answer.item_ids[0] == "i6"
    assert answer.scores == sorted(answer.scores, reverse=True)


def test_scores_are_the_models(recommender):
    (answer,) = recommender.recommend([["i3", "i4"]], k=29, exclude_seen=False)
    scores = recommender.score(["i3", "i4"], answer.item_ids)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, answer.scores, rtol=1e-5, atol=1e-6)
    assert np.isnan(recommender.score(["i3"], ["i4", "nowhere"])).tolist() == [False, True]


def test_any_number_of_histories_of_any_length_are_answered_as_if_alone(recommender):
    rng = np.random.default_rng(1)
    histories = [[f"i{n}" for n in rng.integers(30, size=size)] for size in [1, 40, 8, 0, 2]]
    together = recommender.recommend(histories, k=5)
    for history, answer in zip(histories, together, strict=True):
        (alone,) = recommender.recommend([history], k=5)
        assert alone.item_ids == answer.item_ids
        np.testing.assert_allclose(alone.scores, answer.scores, rtol=1e-5, atol=1e-6)
        assert not {*history} & {*answer.item_ids}
    assert recommender.recommend([]) == []
    assert recommender.score(["i3"], []).shape == (0,)


def test_batches_are_bounded_by_the_items_to_leave_out(recommender, monkeypatch):
    rng = np.random.default_rng(2)
    histories = [[f"i{n}" for n in rng.integers(30, size=size)] for size in [3, 60, 2, 60, 60, 1]]
    expected = recommender.recommend(histories, k=5)
    monkeypatch.setattr(recommender_module, "_MOST_EXCLUDED", 64)
    sizes = []
    compute = recommender._compute
    monkeypatch.setattr(
        recommender, "_compute", lambda batch, r: sizes.append(len(batch)) or compute(batch, r)
    )
    answers = recommender.recommend(histories, k=5)
    assert sizes == [2, 2, 2]  # the second one ends where the batch of four does
    for answer, other in zip(answers, expected, strict=True):
        assert answer.item_ids == other.item_ids
        np.testing.assert_allclose(answer.scores, other.scores, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_long_histories_are_not_kept_until_their_batch_is_full(ring_run):
    recommender = Recommender.load(ring_run, batch_size=16)
    recommender.recommend([["i3"] * 9] * 16)

    def histories():
        for _ in range(16):
            yield [f"i{n % 3}{n % 10}" for n in range(30_000)]

    tracemalloc.start()
    try:
        assert len(list(recommender.recommend_each(histories()))) == 16
        assert tracemalloc.get_traced_memory()[1] < 10e6  # all of them take 27
    finally:
        tracemalloc.stop()


def test_only_the_newest_items_are_read(recommender):
    newest = [f"i{n}" for n in range(recommender.max_len)]
    (short,) = recommender.recommend([newest], exclude_seen=False)
    (long,) = recommender.recommend([["i20", "i25", *newest]], exclude_seen=False)
    assert short.item_ids == long.item_ids


def test_unknown_items_are_skipped_and_counted(recommender):
    with_unknown, without = recommender.recommend([["i3", "what", "i4", 7], ["i3", "i4"]])
    assert with_unknown == without._replace(unknown=2)


def test_an_empty_history_is_answered_by_popularity(recommender, data_file, caplog):
    recommender.recommend([["i3"]] * 6, k=4)
    assert not caplog.messages
    empty, unknown, *_ = recommender.recommend([[], ["what"], *[["i3"]] * 4], k=4)
    (warning,) = caplog.messages
    assert warning.startswith("histories without an item that the model knows: 2 of 6")
    assert empty.by == unknown.by == "popularity"
    assert (empty.unknown, unknown.unknown) == (0, 1)
    assert empty.scores == sorted(empty.scores, reverse=True)
    lines = data_file.read_text().splitlines()[1:]
    events = [line.split("\t")[1] for line in lines]
    assert 0 < empty.scores[0] <= events.count(empty.item_ids[0])
    with pytest.raises(UserError, match="no item that this model knows; give one"):
        recommender.score([], ["i3"])


def test_it_is_loaded_in_one_folder_and_asked_in_another(ring_run, tmp_path, monkeypatch):
    monkeypatch.chdir(ring_run.parent)
    recommender = Recommender.load(ring_run.name)
    monkeypatch.chdir(tmp_path)
    assert recommender.recommend([[]], k=3)[0].by == "popularity"


def test_candidates_and_filter(recommender):
    whole = recommender.recommend([["i3", "i4"]], k=29)[0].item_ids
    some = ["i9", "i5", "i4", "what", "i20", "i5"]
    (answer,) = recommender.recommend([["i3", "i4"]], candidates=some)
    assert answer.item_ids == [item for item in whole if item in some]
    (answer,) = recommender.recommend([["i3", "i4"]], candidates=some, filter=lambda i: i != "i9")
    assert answer.item_ids == [item for item in whole if item in ("i5", "i20")]
    assert recommender.recommend([[]], candidates=["i9"])[0].item_ids == ["i9"]
    with pytest.raises(UserError, match="leave no item"):
        recommender.recommend([["i3"]], candidates=["what"])


def test_similar_items(recommender):
    answer = recommender.similar_items("i5", k=4)
    assert answer.by == "similarity"
    assert len(answer.item_ids) == 4
    assert "i5" not in answer.item_ids
    assert all(-1.001 <= score <= 1.001 for score in answer.scores)
    with pytest.raises(UserError, match="does not know item 'what'; name another"):
        recommender.similar_items("what")


def test_more_than_the_catalogue_has_is_all_of_it(recommender):
    (answer,) = recommender.recommend([["i3", "i4"]], k=2**33)
    assert len(answer.item_ids) == 28
    assert len(recommender.similar_items("i5", k=10**12).item_ids) == 29


def test_few_programs_are_compiled(ring_run):
    recommender = Recommender.load(ring_run)
    others = recommender._search._cache_size()  # all recommenders share these programs
    for rows in (3, 4):
        for length in (5, 6, 7, 8, 9, 100):
            for k in (1, 5, 16):
                recommender.recommend([["i3"] * length] * rows, k=k)
    assert recommender._encode._cache_size() == 1
    assert recommender._search._cache_size() <= others + 1


@pytest.mark.parametrize(
    ("histories", "options", "words"),
    [
        (["i3"], {}, "put it in brackets"),
        ([3], {}, "put it in brackets"),
        ([["i3"]], {"candidates": "i5"}, "candidates: a list of item ids is wanted, not 'i5'"),
        ([[50.0]], {}, "item 50.0 is of type float, not an id; write ids as text or integers"),
        ([["i3", np.float32("nan")]], {}, "is of type float"),
        ([b"i3"], {}, "put it in brackets"),
        ([[b"i3"]], {}, "item b'i3' is of type bytes, not an id; write ids as text or integers"),
        ([[("i3", 5)]], {}, "'i3', 5. is of type tuple, not an id"),
        ([["i3"]], {"k": 0}, "k must be at least 1, not 0"),
        ([["i3"]], {"k": 2.5}, "k must be a whole number, not 2.5"),
        ([["i3"]], {"approx": 1.5}, "approx must be"),
        ([["i3"]], {"filter": lambda _: np.array([1, 0])}, "filter must return true or false"),
    ],
)
def test_what_cannot_be_answered_is_said(recommender, histories, options, words):
    with pytest.raises(UserError, match=words):
        recommender.recommend(histories, **options)


def test_a_string_of_items_is_not_taken_apart(recommender):
    with pytest.raises(UserError, match="items: a list of item ids is wanted, not 'i5'"):
        recommender.score(["i3"], "i5")
