"""Safetensors files: what is written is read, damage ends in one line."""

import random
import re
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

KINDS = [f"float{bits}" for bits in (64, 32, 16)] + [f"int{bits}" for bits in (64, 32, 16, 8)]
KINDS += ["bfloat16", "uint8", "bool"]
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


def test_big_endian_arrays_are_written_little(tmp_path):
    write_safetensors(tmp_path / "x", {"x": np.array([1, 2], ">i4")})
    np.testing.assert_array_equal(read_safetensors(tmp_path / "x")["x"], np.array([1, 2], "<i4"))


def test_what_cannot_be_written(tmp_path):
    one = {"x": np.ones(1)}
    path = tmp_path / "x"
    for arrays, metadata, words in (
        ({"x": np.array(["a"])}, None, "'x' is <U1; known: F64, F32"),
        ({"__metadata__": np.ones(1)}, None, "an array cannot be named '__metadata__'"),
        ({1: np.ones(1)}, None, "an array's name is text, not 1"),
        (one, {"seed": 1}, "metadata must be text"),
        (one, ["seed"], "metadata must be text"),
    ):
        with pytest.raises(UserError, match=words):
            write_safetensors(path, arrays, metadata)
    with pytest.raises(UserError, match="its folder is missing"):
        write_safetensors(tmp_path / "no" / "x", one)
    assert not list(tmp_path.iterdir())


def test_a_dtype_that_numpy_lacks(tmp_path):
    header = b'{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}'
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    with pytest.raises(UserError, match=r"arrays of F8_E4M3; known: F64, F32, .*; restore it"):
        read_safetensors(tmp_path / "x")


def test_damaged_files_end_in_one_line(tmp_path):
    path, rng, refused = tmp_path / "x", random.Random(0), []
    write_safetensors(path, {"a": np.ones((2, 3)), "b": np.arange(5)}, {"a": "b"})
    good = path.read_bytes()
    for _ in range(1000):
        path.write_bytes(mutate_bytes(good, rng))
        try:
            read_safetensors(path)
        except UserError as error:
            refused.append(str(error))
    assert 500 < len(refused) < 1000
    line = re.compile(rf"{path} cannot be read \(.+\); restore it from a copy")
    assert all(map(line.fullmatch, refused))


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="does not exist; check the path"):
        read_safetensors(tmp_path / "x")
