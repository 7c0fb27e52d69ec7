"""Vectors of items in files and in memory: what is read, and what is refused in one line."""

import numpy as np
import polars as pl
import pytest

from echojax.data.item_vectors import read_item_vectors, vectors_of_frame
from echojax.errors import UserError

IDS = ["007", "b c", "d"]
VECTORS = np.array([[1, 2.5], [0, -1e3], [3, 4]], np.float32)
WIDE = {"item_id": IDS, "x": VECTORS[:, 0], "y": VECTORS[:, 1]}
LISTS = {"title": ["A", "B", "C"], "item_id": IDS, "vector": VECTORS.tolist()}


def npy(path, vectors, ids):
    np.save(path, vectors)
    path.with_suffix(".ids.txt").write_text("\n".join(ids) + "\n")


WRITERS = {
    "lists.parquet": lambda path: pl.DataFrame(LISTS).write_parquet(path),
    "wide.parquet": lambda path: pl.DataFrame(WIDE).write_parquet(path),
    "lists.arrow": lambda path: pl.DataFrame(LISTS).write_ipc(path),
    "wide.csv": lambda path: pl.DataFrame(WIDE).write_csv(path),
    "wide.tsv": lambda path: pl.DataFrame(WIDE).write_csv(path, separator="\t"),
    "of.npz": lambda path: np.savez(path, ids=np.array(IDS), vectors=VECTORS),
    "of.npy": lambda path: npy(path, VECTORS.astype(np.float64), IDS),
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_of_each_format(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found = read_item_vectors(tmp_path / name)
    assert found.ids_N.tolist() == IDS
    assert found.vectors_NxF.dtype == np.float32
    np.testing.assert_array_equal(found.vectors_NxF, VECTORS)


@pytest.mark.parametrize(
    "frame",
    [WIDE, {"item": IDS, "vector": VECTORS}, (IDS, VECTORS.tolist()), pl.DataFrame(LISTS),
     {"what": IDS, "id": [1, 2, 3], "vector": list(VECTORS)}],
)  # fmt: skip
def test_frames(frame):
    found = vectors_of_frame(frame, item="what")
    assert found.ids_N.tolist() == IDS
    np.testing.assert_array_equal(found.vectors_NxF, VECTORS)
    assert vectors_of_frame(([7, 8.0, 9], VECTORS)).ids_N.tolist() == ["7", "8", "9"]


class Twice:
    """Like a frame of pandas, two of whose columns have one name."""

    columns = ("item", "x", "x", "y")

    def __getitem__(self, name):
        """Return the columns of that name."""
        return {"item": IDS, "x": VECTORS, "y": VECTORS[:, 0]}[name]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ((["a", "b", "a"], VECTORS), "1 ids come more than once, such as 'a'"),
        ((["a", "", None], VECTORS), "row 2 has no item id"),
        ((IDS, VECTORS * [np.nan, 1]), "3 vectors have NaN or infinite numbers, such as.* '007'"),
        ((IDS, VECTORS.astype(float) * [1e300, 1]), "2 vectors have NaN or infinite"),
        ((IDS, np.ma.masked_equal(VECTORS, 4)), "1 vectors have NaN or infinite numbers.* 'd'"),
        (Twice(), "two columns are named 'x'; rename one of them"),
        ((IDS[:2], VECTORS), "2 ids of 3 vectors"),
        ((IDS, VECTORS[:, 0] > 0), "holds no numbers, nor lists of one length"),
        ((IDS, VECTORS > 0), "vectors are bool of shape"),
        ((IDS, [[1], [2, 3], [4]]), "'vector' holds no numbers, nor lists of one length"),
        ((IDS, ["x", "y", "z"]), "'vector' holds no numbers"),
        ({"item": IDS, "x": [1, 2]}, "3 ids, but 2 of 'x'"),
        ({"item": IDS}, "of shape .3, 0."),
        ({"item": [], "x": np.zeros(0)}, "of shape .0, 1."),
        ({"item": IDS, "": [0, 1, 2], "x": [1, 2, 3]}, "column '' looks like numbers of rows or"),
        ({"item": IDS, "Unnamed: 0": [0, 1, 2]}, "column 'Unnamed: 0' looks like numbers of rows"),
        ({"item": IDS, "movieId": [7, 8, 9]}, "column 'movieId' looks like numbers of rows or oth"),
        ({"name": IDS, "x": [1, 2, 3]}, "no item column among name, x"),
        ({"item": IDS, "x": VECTORS, "y": VECTORS}, "columns x, y all hold lists"),
        (7, r"item_vectors: a value of type int has no columns; .* or \(ids, array\)"),
    ],
)  # fmt: skip
def test_what_is_no_vector_of_each_item_is_one_line(frame, message):
    with pytest.raises(UserError, match=message) as caught:
        vectors_of_frame(frame)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("no", lambda path: None, "no such file"),
        ("folder", lambda path: path.mkdir(), "is no regular file"),
        ("cut.npz", lambda path: path.write_bytes(b"PK\x03\x04cut"), "cannot be read"),
        ("cut.npy", lambda path: path.write_bytes(b"\x93NUMPY\x01"), "cannot be read"),
        ("cut.parquet", lambda path: path.write_bytes(b"PAR1cut"), "cannot be read|no table"),
        ("empty.csv", lambda path: path.write_bytes(b""), "no table that can be read"),
        ("alone.npy", lambda path: np.save(path, VECTORS), "alone.ids.txt is missing"),
        ("objects.npy", lambda path: np.save(path, np.array([{}])), "cannot be read"),
        ("flat.npy", lambda path: npy(path, VECTORS[0], IDS), "of shape .2,.; numbers of shape"),
        ("other.npz", lambda path: np.savez(path, x=VECTORS), "needs the arrays 'ids'"),
    ],
)
def test_what_is_no_file_of_vectors_is_one_line(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        read_item_vectors(tmp_path / name)
    assert str(caught.value).startswith(f"--item-vectors {tmp_path / name}")
    assert "\n" not in str(caught.value)


def test_a_panic_of_polars_is_one_line(tmp_path, monkeypatch):
    def panics(path):
        raise pl.exceptions.PanicException("assertion failed\n  left: 2")

    monkeypatch.setattr(pl, "read_parquet", panics)
    WRITERS["wide.parquet"](tmp_path / "x")
    with pytest.raises(UserError, match=r"no table that can be read \(assertion failed left: 2\)"):
        read_item_vectors(tmp_path / "x")
