"""Events of a window scored in one pass, against one pass an event."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from echojax.config import Config, as_dict
from echojax.data import Examples
from echojax.errors import UserError
from echojax.evaluation.prequential import passes, rank_prequentially
from echojax.evaluation.ranking import make_ranker, rank_examples
from echojax.files import write_json
from echojax.models.bert4rec import BERT4Rec
from echojax.models.sasrec import SASRec
from echojax.training.evaluate import _rank_prequentially, rank_run
from tests.models.promises import ITEMS, build

MAX_LEN = 7


def examples_of(histories, max_len=MAX_LEN):
    """Return the examples of (items of a user, items before the first that is scored)."""
    starts = np.cumsum([0, *(len(items) for items, _ in histories)])
    target, start, user = [], [], []
    for number, (items, before) in enumerate(histories):
        for place in range(max(1, before), len(items)):
            target.append(starts[number] + place)
            start.append(starts[number])
            user.append(number)
    items_T = np.concatenate([items for items, _ in histories]).astype(np.int32)
    return Examples(items_T, np.array(start), np.array(target), np.array(user, np.int32), max_len)


HISTORIES = st.lists(
    st.tuples(st.lists(st.integers(1, 9), min_size=2, max_size=40), st.integers(0, 39)), min_size=1
).filter(lambda histories: any(max(1, before) < len(items) for items, before in histories))


@given(HISTORIES, st.integers(1, 9))
def test_each_event_is_scored_once_from_half_a_window_or_all_before_it(histories, max_len):
    examples = examples_of(histories, max_len)
    windows, count_W = passes(examples)
    assert count_W.sum() == len(examples)
    owner_M = np.repeat(np.arange(len(windows)), count_W)
    first_M, shown_M = windows.first_M[owner_M], examples.target_M - windows.first_M[owner_M]
    assert (first_M >= examples.start_M).all()
    assert (shown_M >= np.minimum((max_len + 1) // 2, examples.target_M - examples.start_M)).all()
    assert (shown_M <= windows.lengths_M[owner_M]).all()
    assert windows.lengths_M.max() <= max_len
    alone_M = np.bincount(examples.user_M)[examples.user_M] == 1
    np.testing.assert_array_equal(shown_M[alone_M], examples.lengths_M[alone_M])
    events = np.bincount(examples.user_M)
    most = 1 + -(-np.maximum(0, events - 1) // (max_len - (max_len + 1) // 2 + 1))
    assert len(windows) <= most[events > 0].sum()


@pytest.mark.parametrize("exclude_seen", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ranks_are_those_of_one_pass_an_event(exclude_seen):
    rng = np.random.default_rng(0)
    sizes = [(2, 0), (5, 3), (7, 0), (8, 7), (30, 4), (19, 18)]
    examples = examples_of([(rng.integers(1, ITEMS, n), before) for n, before in sizes])
    graphdef, params = nnx.split(build(SASRec))

    def model(params):
        return nnx.merge(graphdef, params)

    def items(params):
        return model(params).output_embeddings()

    ours = rank_prequentially(
        lambda params, ids, lengths: model(params).encode_all(ids, lengths),
        items,
        params,
        examples,
        num_items=ITEMS,
        batch_size=3,
        exclude_seen=exclude_seen,
    )
    # The same items as each event's window has before it, in examples of their own.
    windows, count_W = passes(examples)

    class Shown(Examples):
        def gather(self, indices):
            start = np.repeat(windows.first_M, count_W)[indices]
            return Examples.gather(replace(self, start_M=start + 0 * self.start_M[indices],
                                           target_M=self.target_M[indices]),
                                   np.arange(len(indices)))  # fmt: skip

    ranker = make_ranker(lambda params, *rows: model(params).encode(*rows), items, num_items=ITEMS)
    shown = Shown(**vars(examples))
    theirs = rank_examples(ranker, params, shown, batch_size=8, exclude_seen=exclude_seen)
    np.testing.assert_array_equal(ours.rank_M, theirs.rank_M)
    np.testing.assert_array_equal(ours.top_MxK, theirs.top_MxK)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"model": "sasrec"}, "is for runs with --split global-time, .* has --split leave-one-out"),
        ({"model": "markov", "split": "global-time"}, "is for causal models, and --model markov"),
    ],
)
def test_runs_that_cannot_be_scored_so_are_refused(tmp_path, flags, says):
    write_json(tmp_path / "config.json", as_dict(Config(**flags, max_len=7, batch_size=4)))
    with pytest.raises(UserError, match=f"--evaluate prequential {says}"):
        rank_run(tmp_path, "test", prequential=True)


def test_a_model_that_looks_ahead_is_refused():
    graphdef, params = nnx.split(build(BERT4Rec))
    best = SimpleNamespace(graphdef=graphdef, params=params)
    with pytest.raises(UserError, match="is for causal models, and --model bert4rec"):
        _rank_prequentially(Config(model="bert4rec"), ITEMS, best, None, 10)
