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
from echojax.fuzzing.mutations import mutate_bytes
from echojax.interop import read_safetensors, write_safetensors

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
    "a header of 50 bytes in a file of 10": struct.pack("<Q", 50) + b"{}",
    "a header of 16777217 bytes": file(b" " * (2**24 + 1)),
    "Expecting": file(b"{"),
    "no JSON object": file([]),
    "utf-8": file(b'{"\xff": 1}'),
    "cannot be read": file(b"[" * 100_000),
    "name twice": file(b'{"a": 1, "a": 1}'),
    "metadata is not text": file({"__metadata__": {"a": 1}}),
    "its metadata": file({"__metadata__": "a"}),
    "nothing sound of 'a'": file({"a": 1}),
    "sound of 'a'": file({"a": entry(dtype="F4")}),
    "header says nothing": file({"a": entry(dtype=[])}),
    "nothing sound of": file({"a": entry(data_offsets=[0, 2, 4])}),
    "impossible shape": file({"a": entry(shape=[-4])}),
    "'a' has an impossible": file({"a": entry(shape=[4.0])}),
    "impossible shape or": file({"a": entry(shape=[True] * 3 + [4])}),
    "an impossible shape": file({"a": entry(shape=[1] * 33)}),
    "shape or place": file({"a": entry(data_offsets=[-4, 0])}),
    "has 4 bytes, not what its shape": file({"a": entry(shape=[2**40, 2**40])}),
    "begins at byte 3, the one before it ends at 4": file(
        {"a": entry(), "b": entry(shape=[1], data_offsets=[3, 4])}
    ),
    "begins at byte 1": file({"a": entry(shape=[3], data_offsets=[1, 4])}),
    "3 bytes of arrays, but its header says 4": file({"a": entry()}, b"123"),
    "5 bytes of arrays, but its header says 4": file({"a": entry()}, b"12345"),
    "neither 0 nor 1": file({"a": entry(dtype="BOOL")}),
    "array is too big|maximum|reshape": file(
        {"a": entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0])}, b""
    ),
}


@pytest.mark.parametrize("words", DAMAGED)
def test_damage_is_said_in_one_line(tmp_path, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(DAMAGED[words])
    with pytest.raises(UserError, match=words) as caught:
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
