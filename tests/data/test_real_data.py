"""The published numbers of the real data sets, where the files are at hand."""

import logging

import numpy as np
import pytest

from echojax.data import DATASETS, Batches, global_time_split, leave_one_out, load_dataset
from echojax.data.load import statistics_of

EXAMPLES = {"ml-100k": 96_458, "ml-1m": 981_491, "amazon-beauty": 131_413}


@pytest.fixture(autouse=True)
def _one_cache(tmp_path_factory, monkeypatch):
    """Prepare each data set once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "prepared"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_published_numbers(name, real_data, caplog):
    caplog.set_level(logging.INFO, "echojax")
    dataset = load_dataset(name, data_dir=real_data)
    assert caplog.messages == []
    assert statistics_of(dataset) == DATASETS[name].five_core
    split = leave_one_out(dataset, DATASETS[name].max_len)
    assert len(split.train) == EXAMPLES[name]
    assert len(split.valid) == len(split.test) == dataset.num_users


def test_raw_and_prepared_ml_1m_are_one_data_set(real_data):
    raw = load_dataset("ml-1m", data_dir=real_data)
    core = load_dataset(data_path=real_data / "ml-1m-5core.inter.gz")
    assert raw.fingerprint["raw"] == {"users": 6040, "items": 3706, "interactions": 1_000_209}
    np.testing.assert_array_equal(raw.user_ids, core.user_ids)
    np.testing.assert_array_equal(raw.offsets, core.offsets)
    # Ties keep file order, so that histories agree event by event.
    np.testing.assert_array_equal(raw.item_ids[raw.items_T], core.item_ids[core.items_T])
    first = raw.item_ids[raw.items_T[raw.offsets[0] :]][:7]
    assert first.tolist() == ["3186", "1270", "1721", "1022", "2340", "1836", "3408"]
    assert 0.52 < raw.fingerprint["tie_share"] < 0.54


def test_global_time_split_of_ml_100k(real_data):
    dataset = load_dataset("ml-100k", data_dir=real_data)
    split = global_time_split(dataset, 50)
    parts = np.array([len(part) for part in split[:3]])
    np.testing.assert_allclose(parts / parts.sum(), [0.8, 0.1, 0.1], atol=0.01)
    times = [dataset.times_T[part.target_M] for part in split[:3]]
    assert times[0].max() < times[1].min() <= times[1].max() < times[2].min()


def test_an_epoch_of_ml_100k(real_data):
    train = leave_one_out(load_dataset("ml-100k", data_dir=real_data), 50).train
    source = Batches(train, 2048, seed=0)
    assert source.per_epoch == 48
    seen = [source[step] for step in range(48)]
    assert sum(batch["weights"].sum() for batch in seen) == 96_458
    targets = np.concatenate([batch["targets"][batch["weights"] > 0] for batch in seen])
    assert (np.bincount(targets) == np.bincount(train.items_T[train.target_M])).all()
