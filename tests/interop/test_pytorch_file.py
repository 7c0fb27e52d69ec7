"""Checkpoints of torch.save: the numbers that are in them, and one line where they are not."""

import random
import zipfile
from collections import OrderedDict
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from echojax.errors import UserError
from echojax.fuzzing.mutations import mutate_bytes
from echojax.interop import from_pytorch, read_pytorch
from tests.interop.checkpoints import KINDS, Parameter, Storage, Tensor, archive, save

TWO_BY_THREE = np.arange(6, dtype=np.float32).reshape(2, 3)


class Config:
    """As RecBole's: any object beside the weights."""

    def __init__(self):
        self.final = {"epochs": [1, 2, {3, 4}], ("a", 1): SimpleNamespace(x=None), 5: b"x"}


@pytest.mark.parametrize("dtype", KINDS)
def test_dtypes_and_numbers(tmp_path, dtype):
    numbers = np.array([[0, 1], [1, 0], [0, 0]]).astype(jnp.dtype(dtype))
    read = read_pytorch(save(tmp_path / "x.pth", {"x": Tensor(numbers)}))["x"]
    assert read.dtype == numbers.dtype
    np.testing.assert_array_equal(read, numbers)


def test_views(tmp_path):
    numbers = np.arange(24, dtype=np.float32)
    base = Storage(numbers)
    state = {
        "transposed": Tensor(base, (6, 4), (1, 6)),
        "part": Tensor(base, (2, 3), (6, 1), 8),
        "scalar": Tensor(base, (), (), 23),
        "one": Tensor(base, (1, 2), (2**62, 1)),  # the stride of an axis of 1 means nothing
        "none": Tensor(base, (0, 7)),
    }
    read = read_pytorch(save(tmp_path / "x.pth", state))
    np.testing.assert_array_equal(read["transposed"], numbers.reshape(4, 6).T)
    np.testing.assert_array_equal(read["part"], numbers.reshape(4, 6)[1:3, 2:5])
    assert read["scalar"].shape == ()
    assert read["scalar"] == 23
    np.testing.assert_array_equal(read["one"], [[0, 1]])
    assert read["none"].shape == (0, 7)
    assert np.shares_memory(read["transposed"], read["part"])
    assert not any(array.flags.writeable for name, array in read.items() if name != "none")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_beside_anything(tmp_path, protocol):
    x = Tensor(TWO_BY_THREE)
    state = OrderedDict(a=x, b=Parameter(x), c=Parameter(x, {"_no_weight_decay": True}), n=3)
    state._metadata = OrderedDict({"": {"version": 1}})
    saved = {"config": Config(), "epoch": 1, "state_dict": state, "optimizer": {0: [x], "a": (x,)}}
    read = read_pytorch(save(tmp_path / "x.pth", saved, protocol))
    assert list(read) == ["a", "b", "c"]
    for array in read.values():
        np.testing.assert_array_equal(array, TWO_BY_THREE)


def test_weights_reach_the_model(tmp_path, golden):
    numbers = golden("mamba4rec_1layer")
    params = {k[6:]: v for k, v in numbers.items() if k.startswith("param.")}
    state = OrderedDict((name, Tensor(array)) for name, array in params.items())
    path = save(tmp_path / "x.pth", {"config": Config(), "state_dict": state})
    model = from_pytorch(read_pytorch(path), model="mamba4rec", max_len=50)
    np.testing.assert_array_equal(model.item_embedding[...], params["item_embedding.weight"])
    kernel = model.layers[0].mamba.in_proj.kernel[...]
    np.testing.assert_array_equal(kernel.T, params["mamba_layers.0.mamba.in_proj.weight"])


X = Storage(TWO_BY_THREE)
BAD = {
    "reaches beyond": {"x": Tensor(X, (2, 3), (3, 1), 1)},
    "'x' reaches beyond": {"x": Tensor(X, (2**40,), (0,))},
    "reaches beyond its": {"x": Tensor(X, (2, 2), (2**62, 1))},
    "impossible shape": {"x": Tensor(X, (-1, 3))},
    "shape or strides": {"x": Tensor(X, (2, 3), (3, -1))},
    "of impossible shape": {"x": Tensor(X, (2, 3), (3, 1), -1)},
    "a tensor of impossible shape": {"x": Tensor(X, (2.0, 3))},
    "impossible rank": {"x": Tensor(X, (1,) * 33)},
    "of impossible rank": {"x": Tensor(X, (2, 3), (1,))},
    "unknown kind": {"x": Tensor(X, (2, 3), extra=({}, 1))},
    "unknown kind torch.QInt8Storage": {"x": Tensor(Storage(TWO_BY_THREE, "QInt8"), (2, 3))},
    "24 bytes": {"x": Tensor(Storage(TWO_BY_THREE, "Half"), (2, 3))},
    "truth values": {"x": Tensor(Storage(np.full(3, 2, np.uint8), "Bool"), (3,))},
    "holds no tensors": {"x": 1, 2: Tensor(X, (2, 3))},
    "holds no tensors by name": {"x": Tensor(X, (6,), extra=({"neg": True},))},
    "holds a tests.interop.test_pytorch_file.Config": Config(),
}


@pytest.mark.parametrize("words", BAD)
def test_tensors_that_cannot_be(tmp_path, words):
    with pytest.raises(UserError, match=words):
        read_pytorch(save(tmp_path / "x.pth", BAD[words]))


def test_archives_that_torch_does_not_write(tmp_path):
    path, good = tmp_path / "x.pth", {"x": Tensor(TWO_BY_THREE)}

    def refused(words):
        with pytest.raises(UserError, match=words) as caught:
            read_pytorch(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    refused("does not exist")
    save(path, good, byteorder=b"big")
    refused("big-endian")
    save(path, good, **{"data/0": b"1234"})
    refused("has 4 bytes")
    save(path, good, **{"inner/data.pkl": b"N."})
    refused("no archive of torch.save")
    with zipfile.ZipFile(save(path, good), "a") as file, pytest.warns(match="Duplicate name"):
        file.writestr("archive/data/0", bytes(24))
    refused("two parts of one name")
    with zipfile.ZipFile(save(path, good)) as file:
        parts = {i.filename.split("/", 1)[1]: file.read(i) for i in file.infolist()}
    archive(path, parts, zipfile.ZIP_DEFLATED)
    refused("data.pkl is compressed|byteorder is compressed")
    archive(path, parts | {"zeros": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    refused("larger than the file")
    del parts["data/0"]
    refused_path = archive(path, parts)
    assert refused_path == path
    refused("no item named 'archive/data/0'")
    for start in (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x04N."):
        path.write_bytes(start)
        refused("before 1.6.*save it again with a current torch")
    path.write_bytes(b"")
    refused("not a zip")


def test_damaged_files_end_in_one_line(tmp_path):
    state = {f"layer.{i}.weight": Tensor(TWO_BY_THREE + i) for i in range(4)}
    path = save(tmp_path / "x.pth", {"state_dict": OrderedDict(state), "config": Config()})
    good, rng, refused = path.read_bytes(), random.Random(0), 0
    with zipfile.ZipFile(path) as file:
        parts = {i.filename.split("/", 1)[1]: file.read(i) for i in file.infolist()}
    for trial in range(1000):
        if trial % 2:  # behind the archive's checksums
            archive(path, parts | {"data.pkl": mutate_bytes(parts["data.pkl"], rng)})
        else:
            path.write_bytes(mutate_bytes(good, rng))
        try:
            read = read_pytorch(path)
        except UserError as error:
            refused, line = refused + 1, str(error)
        else:
            line = ""
            assert sum(array.size for array in read.values()) <= 6 * 4 * len(read)
        assert "\n" not in line
    assert 500 < refused < 1000


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="does not exist; check the path"):
        read_pytorch(tmp_path / "x.pth")
