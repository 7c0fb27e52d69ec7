import itertools

import numpy as np
import pytest

from echojax.data import Examples, Preparation, leave_one_out, load_dataset
from echojax.data.dataset import prepare
from echojax.data.synthetic import Synthetic
from echojax.errors import UserError


@pytest.fixture(scope="module")
def dataset():
    return load_dataset()


@pytest.fixture(scope="module")
def sample(dataset):
    """Examples of every history length, the optimum's distribution of them, and the targets."""
    split = leave_one_out(dataset, 50)
    indices = np.random.default_rng(0).choice(len(split.train), 20_000, replace=False)
    next_MxV = dataset.optimum(split.train, indices)
    return split.train, indices, next_MxV, split.train.gather(indices)["targets"]


def tiny(**changes):
    sizes = {"num_users": 200, "min_length": 5, "max_length": 5, "num_genres": 4, "genre_size": 2}
    return Synthetic(**{"seed": 1, **sizes, "far_lag": 3, "period": 2, **changes})


def sequence_probability(generator, items):
    """P(items), by the generator's definition: a sum over the hidden genre, event by event."""
    rules, size = generator.rules, generator.genre_size
    noise = 1 - generator.recent - generator.far - generator.taste
    total = 0.0
    for hidden in range(generator.num_genres):
        probability = 1 / generator.num_genres
        for t, item in enumerate(items):
            event = noise / generator.catalogue
            if t >= 1:
                event += generator.recent * (item == rules["successor"][items[t - 1]])
            else:
                event += generator.recent / generator.catalogue
            if t >= generator.far_lag:
                genre = rules["follows"][items[t - generator.far_lag] // size]
                event += generator.far * (item // size == genre) / size
            else:
                event += generator.far / generator.catalogue
            genre = hidden
            for _ in range(t):  # the ring is walked step by step
                genre = rules["turn"][1, genre]
            event += generator.taste * (item // size == genre) / size
            probability *= event
        total += probability
    return total


def test_optimum_is_bayes_rule_by_enumeration():
    """P(next | history) = P(history, next) / P(history), both summed by hand."""
    generator = tiny()
    rng = np.random.default_rng(0)
    for length in (1, 2, 3, 4):
        for history in rng.integers(0, generator.catalogue, (5, length)):
            items = np.append(history + 1, 1).astype(np.int32)
            zero = np.zeros(1, np.int64)
            example = Examples(items, zero, np.array([length]), zero.astype(np.int32), 50)
            found = generator.optimum(example, zero)[0]
            joint = [
                sequence_probability(generator, [*history, item])
                for item in range(generator.catalogue)
            ]
            expected = np.array(joint) / sequence_probability(generator, history)
            assert found[0] == 0
            np.testing.assert_allclose(found[1:], expected, rtol=1e-7)


def test_sequences_occur_as_often_as_they_should():
    """Chi-square of the first three events of many users against their exact probabilities."""
    generator = tiny(num_users=200_000, min_length=4, max_length=4, far_lag=2)
    items = generator.generate()["item"].to_physical().to_numpy()
    events = items.reshape(-1, 4)[:, :3].astype(np.int64)
    size = generator.catalogue
    counts = np.bincount(events @ [size * size, size, 1], minlength=size**3)
    expected = np.array(
        [sequence_probability(generator, s) for s in itertools.product(range(size), repeat=3)]
    )
    assert expected.sum() == pytest.approx(1)
    expected *= generator.num_users
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - (size**3 - 1)) < 5 * np.sqrt(2 * (size**3 - 1))


def test_optimum_is_a_distribution(sample):
    _, _, next_MxV, _ = sample
    assert next_MxV.dtype == np.float64
    assert (next_MxV[:, 0] == 0).all()
    assert (next_MxV[:, 1:] > 0).all()
    np.testing.assert_allclose(next_MxV.sum(1), 1, rtol=1e-12)


def test_optimum_is_calibrated(sample):
    """Events that it gives a probability of about p happen in a share p of the cases."""
    _, _, next_MxV, targets = sample
    happened = np.zeros(next_MxV.shape, bool)
    happened[np.arange(targets.size), targets] = True
    edges = [0, 0.002, 0.01, 0.05, 0.08, 0.1, 0.15, 0.2, 0.25, 1]
    which = np.digitize(next_MxV[:, 1:], edges)
    for level in np.unique(which):
        chosen = which == level
        p, hits = next_MxV[:, 1:][chosen], happened[:, 1:][chosen].sum()
        deviation = np.sqrt((p * (1 - p)).sum())
        assert abs(hits - p.sum()) < 5 * deviation


def hit_rate(scores, targets):
    ranks = 1 + (scores > scores[np.arange(targets.size), targets][:, None]).sum(1)
    return np.mean(ranks <= 10)


def markov_scores(examples, indices, rows):
    """Counts of what followed each item in the chosen examples, plus a trace of popularity."""
    targets = examples.target_M[indices]
    counts = np.zeros((121, 121))
    np.add.at(counts, (examples.items_T[targets - 1], examples.items_T[targets]), 1)
    return (counts + counts.sum(0) / counts.sum())[rows]


def test_nothing_beats_the_optimum(dataset, sample):
    """Not Markov, no mixture with it, none that ignores a source or mistakes the lag."""
    examples, indices, next_MxV, targets = sample
    best = np.log(next_MxV[np.arange(targets.size), targets])
    others = np.setdiff1d(np.arange(len(examples)), indices)
    last = examples.items_T[examples.target_M[indices] - 1]
    markov = markov_scores(examples, others, last)
    markov = markov / markov.sum(1, keepdims=True)
    rivals = {"markov": markov, "mixed": 0.5 * next_MxV + 0.5 * markov}
    wrong = {"recent": 1e-6}, {"far": 1e-6}, {"taste": 1e-6}, {"far_lag": Synthetic.far_lag - 1}
    for change in wrong:  # these are so much worse that fewer examples tell
        rivals[str(change)] = Synthetic(**change).optimum(examples, indices[:4000])
    for name, rival in rivals.items():
        rows = np.arange(len(rival))
        loss = best[rows] - np.log(np.maximum(rival[rows, targets[rows]], 1e-300))
        assert loss.mean() > 4 * loss.std() / np.sqrt(loss.size), name
        assert hit_rate(rival, targets[rows]) < hit_rate(next_MxV[rows], targets[rows]), name


def test_markov_is_far_below_the_optimum(dataset):
    split = leave_one_out(dataset, 50)
    targets = split.test.gather(np.arange(len(split.test)))["targets"]
    best = hit_rate(dataset.optimum(split.test, np.arange(len(split.test))), targets)
    last = split.test.items_T[split.test.target_M - 1]
    markov = hit_rate(markov_scores(split.train, np.arange(len(split.train)), last), targets)
    assert best > 0.85
    assert 0.2 < markov < 0.5 * best


def test_sources_and_sizes_are_the_documented_ones(dataset):
    print_ = dataset.fingerprint
    assert (print_["users"], print_["items"]) == (2000, 120)
    assert print_["history_length"]["min"] >= 30
    assert print_["history_length"]["max"] <= 50
    assert print_["interactions"] == print_["raw"]["interactions"]


def test_a_seed_determines_everything(dataset):
    assert load_dataset().fingerprint == dataset.fingerprint
    other = prepare("synthetic", Synthetic(seed=1).generate())
    assert other.fingerprint["sha256"] != dataset.fingerprint["sha256"]
    # Pinned, so that results of different days and machines are about the same data.
    assert dataset.fingerprint["sha256"].startswith("d8682fb9f0f7bdd0")


def test_flags_that_would_drop_events_are_refused():
    with pytest.raises(UserError, match="0 users and 0 items are left"):
        load_dataset(preparation=Preparation(k_core=5000))
    with pytest.raises(UserError, match="its optimum is known for whole histories only"):
        load_dataset(preparation=Preparation(duplicates="first"))
