"""Safetensors files: what is written is read, damage ends in one line."""

import json
import random
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from echojax.errors import UserError
from echojax.interop import read_safetensors, write_safetensors
from tests.fuzzing.mutations import mutate_bytes

KINDS = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
]
SHAPES = npst.array_shapes(min_dims=0, min_side=0, max_side=4)
ARRAYS = st.tuples(st.sampled_from(KINDS), SHAPES)
NAMES = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda n: n != "__metadata__")


@given(st.dictionaries(NAMES, ARRAYS, max_size=5), st.dictionaries(NAMES, NAMES, max_size=2))
def test_what_is_written_is_read(tmp_path_factory, kinds, metadata):
    path = tmp_path_factory.getbasetemp() / "x.safetensors"
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(0, 2, shape[::-1]).T.astype(jnp.dtype(kind))
        for name, (kind, shape) in kinds.items()
    }
    write_safetensors(path, arrays, metadata)
    read = read_safetensors(path)
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()


def test_the_bytes_are_those_of_the_format(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"b": np.array([True]), "a": jnp.ones(2, jnp.bfloat16)}, {"by": "us"})
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    assert json.loads(data[8 : 8 + length]) == {
        "__metadata__": {"by": "us"},
        "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "b": {"dtype": "BOOL", "shape": [1], "data_offsets": [4, 5]},
    }
    assert data[8 + length :] == b"\x80\x3f\x80\x3f\x01"
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_big_endian_arrays_are_written_little(tmp_path):
    write_safetensors(tmp_path / "x", {"x": np.array([1, 2], ">i4")})
    np.testing.assert_array_equal(read_safetensors(tmp_path / "x")["x"], np.array([1, 2], "<i4"))


def test_what_cannot_be_written(tmp_path):
    one = {"x": np.ones(1)}
    path = tmp_path / "x"
    for arrays, metadata, words in (
        ({"x": np.array(["a"])}, None, "'x' is <U1; known: F64, F32"),
        ({"__metadata__": np.ones(1)}, None, "an array cannot be named '__metadata__'"),
        (one, {"seed": 1}, "metadata must be text"),
    ):
        with pytest.raises(UserError, match=words):
            write_safetensors(path, arrays, metadata)
    with pytest.raises(UserError, match="its folder is missing"):
        write_safetensors(tmp_path / "no" / "x", one)
    assert not list(tmp_path.iterdir())


def entry(**changes):
    return {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} | changes


def file(header, data=b"1234"):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


DAMAGED = {
    "too short": b"1234567",
    "a header longer than the file": struct.pack("<Q", 50) + b"{}",
    "no JSON": file(b"{"),
    "no object": file([]),
    "an unknown dtype": file({"a": entry(dtype="F4")}),
    "a negative size": file({"a": entry(shape=[-4])}),
    "too large a shape": file({"a": entry(shape=[2**40, 2**40])}),
    "arrays that overlap": file({"a": entry(), "b": entry(shape=[1], data_offsets=[3, 4])}),
    "bytes of no array": file({"a": entry()}, b"12345"),
    "a dtype that NumPy lacks": file({"a": entry(dtype="F8_E4M3")}),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_said_in_one_line(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(UserError, match=r"cannot be read \(.+\); restore it from a copy") as caught:
        read_safetensors(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_damaged_files_end_in_one_line(tmp_path):
    path, rng, refused = tmp_path / "x", random.Random(0), 0
    write_safetensors(path, {"a": np.ones((2, 3)), "b": np.arange(5)}, {"a": "b"})
    good = path.read_bytes()
    for _ in range(1000):
        path.write_bytes(mutate_bytes(good, rng))
        try:
            read_safetensors(path)
        except UserError:
            refused += 1
    assert 500 < refused < 1000


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="does not exist; check the path"):
        read_safetensors(tmp_path / "x")
