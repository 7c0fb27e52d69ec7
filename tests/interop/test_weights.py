"""A model's parameters by name, to a file and back."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from echojax.errors import UserError
from echojax.interop import load_weights, read_safetensors, weights, write_safetensors
from echojax.models.mamba4rec import Mamba4Rec
from tests.models.promises import build


@pytest.fixture
def empty():
    return nnx.clone(build(Mamba4Rec, max_len=8))


@pytest.fixture
def arrays():
    return weights(build(Mamba4Rec))


def test_there_and_back(tmp_path, empty, arrays):
    assert {"item_embedding", "norm.scale", "layers.0.mamba.in_proj.kernel"} < arrays.keys()
    load_weights(empty, {name: np.zeros_like(array) for name, array in arrays.items()})
    assert not any(array.any() for array in weights(empty).values())
    write_safetensors(tmp_path / "x.safetensors", arrays)
    load_weights(empty, read_safetensors(tmp_path / "x.safetensors"))
    for name, array in weights(empty).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_precision_becomes_the_models(empty, arrays):
    load_weights(empty, {name: array.astype(jnp.bfloat16) for name, array in arrays.items()})
    read = weights(empty)["norm.scale"]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, arrays["norm.scale"].astype(jnp.bfloat16).astype("f4"))


def rename(arrays):
    arrays["norm.scales"] = arrays.pop("norm.scale")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename, r"weights lack norm.scale \(is it 'norm.scales'\?\)"),
        (lambda d: d.clear(), r"weights lack .*, .*, .* and \d+ more"),
        (lambda d: d.update(odd=np.zeros(3)), "weights hold odd, which the model has not"),
        (
            lambda d: d.update({"norm.scale": np.zeros(3)}),
            r"norm.scale has shape \(3,\), the model's \(8,\)",
        ),
        (lambda d: d.update({"norm.scale": np.zeros(8, int)}), "norm.scale is int64; give"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(empty, arrays, change, words):
    before, arrays = weights(empty), {name: array + 1 for name, array in arrays.items()}
    change(arrays)
    with pytest.raises(UserError, match=words):
        load_weights(empty, arrays)
    for name, array in weights(empty).items():
        np.testing.assert_array_equal(array, before[name])
