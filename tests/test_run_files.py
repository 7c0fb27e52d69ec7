"""Shapes of JSON, arrays in archives: what readers of a run folder count on."""

import io
import zipfile

import numpy as np
import pytest

from echojax.arrays import load_arrays, read_arrays
from echojax.errors import UserError
from echojax.run_files import read_records
from echojax.shapes import misfit


@pytest.mark.parametrize(
    ("value", "shape", "problem"),
    [
        ({"a": 1, "b": 2}, {"a": int}, None),
        ({}, {"a": int}, "has no 'a'"),
        ({"a": True}, {"a": int}, "'a' must be a whole number"),
        ({"a": float("nan")}, {"a": float}, "'a' must be a finite number"),
        ({"a": 10**400}, {"a": float}, "'a' must be a finite number"),
        ([0.1, 2], (float, float), None),
        ([0.1], (float, float), "must have 2 values"),
        (["x", 1], [str], "must be a string"),
        ({"x": 1, "y": "z"}, {...: int}, "'y' must be a whole number"),
        (None, {"a": int}, "must be an object"),
    ],
)
def test_shapes(value, shape, problem):
    found = misfit(value, shape)
    assert found is None if problem is None else problem in found


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


def test_records_that_are_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = '{"kind": "train", "step": 1, "epoch": 0.5, "loss": 2.5}'
    path.write_text(f'{good}\n{{"kind": "train", "step": "x"}}\n{"[" * 5000}\n[1]\n{good[:20]}')
    assert [record["loss"] for record in read_records(path)] == [2.5]
