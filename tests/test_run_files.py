"""Records of JSON, arrays in archives: what readers of a run folder count on."""

import io
import json
import math
import zipfile

import numpy as np
import pytest

from echojax.arrays import load_arrays, read_arrays
from echojax.errors import UserError
from echojax.run_files import read_records, read_results

NAMES = [f"{kind}@{k}" for kind in ("hr", "ndcg", "mrr") for k in (5, 10, 20)]
PART = {
    **dict.fromkeys(NAMES, 0.5), "interval": {name: [0, 1.0] for name in NAMES}, "examples": 3,
    "coverage@10": 0.1, "mean_popularity@10": 2.0,
}  # fmt: skip
LENGTH = {"from": 1, "examples": 3, "hr@10": 0.1, "ndcg@10": 0.1}
LENGTH["interval"] = {"hr@10": [0, 1], "ndcg@10": [0, 1]}
RESULTS = {
    "config": {}, "dataset": {"name": "x"}, "train": {"seconds": 1}, "versions": {},
    "valid": PART | {"by_length": [LENGTH]}, "test": PART | {"by_length": []}, "device": "a CPU",
    "baselines": {"markov": {"valid": PART, "test": PART}}, "more": "is ignored",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"device": 3}, "got `int` - at `$.device`"),
        ({"train": {}}, "missing required field `seconds` - at `$.train`"),
        ({"train": {"seconds": True}}, "got `bool` - at `$.train.seconds`"),
        ({"train": {"seconds": math.nan}}, "at `$.train.seconds`"),
        ({"train": {"seconds": 10**400}}, "at `$.train.seconds`"),
        ({"test": PART | {"interval": []}}, "at `$.test"),
        ({"test": PART | {"by_length": [LENGTH | {"from": "x"}]}}, "at `$.test.by_length[0].from`"),
        ({"baselines": {"markov": None}}, "at `$.baselines[...]`"),
    ],
)
def test_results_are_validated(tmp_path, changes, problem):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS | changes))
    if problem is None:
        assert read_results(path) == json.loads(path.read_text())
        return
    with pytest.raises(UserError) as caught:
        read_results(path)
    assert str(caught.value).startswith(f"{path} does not hold the results of a run (")
    assert problem in str(caught.value)


def test_arrays_come_back(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(5), text=np.array(["ä", ""]))
    found = load_arrays(path)
    assert np.array_equal(found["x"], np.arange(5))
    assert found["text"].tolist() == ["ä", ""]


def test_a_pickle_is_never_loaded(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([{"an": "object"}]))
    with pytest.raises(UserError, match="allow_pickle"):
        read_arrays(path)


def test_an_archive_larger_than_its_file_is_refused(tmp_path):
    path, array = tmp_path / "bomb.npz", io.BytesIO()
    np.save(array, np.zeros(1 << 20))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", array.getvalue())
    with pytest.raises(UserError, match="larger than the file"):
        read_arrays(path)


def test_an_archive_of_more_arrays_than_any_has_is_refused(tmp_path):
    np.savez(tmp_path / "many.npz", **{str(n): np.zeros(1, np.int32) for n in range(1001)})
    with pytest.raises(UserError, match=r"many\.npz cannot be read \(it has 1,001 parts"):
        read_arrays(tmp_path / "many.npz")


def test_records_that_are_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = '{"kind": "train", "step": 1, "epoch": 0.5, "loss": 2.5}'
    path.write_text(f'{good}\n{{"kind": "train", "step": "x"}}\n{"[" * 5000}\n[1]\n{good[:20]}')
    assert [record["loss"] for record in read_records(path)] == [2.5]
