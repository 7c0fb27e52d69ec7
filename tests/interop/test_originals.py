"""The original models' numbers: values to 1e-9, gradients to 1e-7, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from echojax.interop import from_pytorch
from echojax.interop.originals import as_ours, named_as_original
from echojax.losses import softmax_cross_entropy

MODELS = {"echomamba4rec": "echomamba_1layer", "mamba4rec": "mamba4rec_1layer"}


def parameters(numbers, dtype=np.float64):
    prefix = "param."
    return {k[len(prefix) :]: v.astype(dtype) for k, v in numbers.items() if k.startswith(prefix)}


def relative(actual, expected):
    return np.max(np.abs(actual - expected)) / max(np.max(np.abs(expected)), 1e-300)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_equal_the_original(golden, name):
    numbers = golden(MODELS[name])
    histories = numbers["item_seq"], numbers["item_seq_len"]
    graphdef, params = nnx.split(from_pytorch(parameters(numbers), model=name, max_len=50))

    def loss(params):
        model = nnx.merge(graphdef, params)
        user, items = model.encode(*histories), model.output_embeddings()
        losses = softmax_cross_entropy(user, items, jnp.asarray(numbers["pos_items"]))
        return losses.mean(), (user, model.scores(*histories))

    (value, found), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    for actual, golden_name in zip((value, *found), ("loss", "seq_output", "logits"), strict=True):
        assert actual.dtype == jnp.float64
        assert relative(actual, numbers[f"f64_{golden_name}"]) < 1e-9
    compared = 0
    for ours, original, grad in named_as_original(grads):
        expected = as_ours(ours, numbers[f"f64_grad.{original}"])
        assert relative(np.asarray(grad[...]), expected) < 1e-7, original
        compared += 1
    assert compared + len(numbers["unused_params"]) == len(parameters(numbers))


def test_float32_stays_float32(golden):
    numbers = golden(MODELS["echomamba4rec"])
    model = from_pytorch(parameters(numbers, np.float32), model="echomamba4rec", max_len=50)
    scores = jax.jit(model.scores)(numbers["item_seq"], numbers["item_seq_len"])
    assert scores.dtype == jnp.float32
    assert relative(scores, numbers["f64_logits"]) < 1e-4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("LayerNorm.bias"), "missing array: LayerNorm.bias"),
        (lambda d: d.update(odd=np.zeros(3)), "unknown array: odd"),
        (lambda d: d.update({"LayerNorm.bias": np.zeros(3)}), r"LayerNorm.bias has shape \(3,\)"),
        (
            lambda d: d.update({"mamba_layers.0.mamba.conv1d.weight": np.zeros((128, 4))}),
            r"conv1d.weight has shape \(128, 4\)",
        ),
        (lambda d: d.pop("item_embedding.weight"), "missing array.*item_embedding.weight"),
    ],
)
def test_wrong_arrays_are_named(golden, change, words):
    arrays = parameters(golden(MODELS["mamba4rec"]), np.float32)
    change(arrays)
    with pytest.raises(ValueError, match=words):
        from_pytorch(arrays, model="mamba4rec", max_len=50)


def test_what_torch_puts_before_names_is_left_out(golden):
    arrays = parameters(golden(MODELS["mamba4rec"]), np.float32)
    plain = from_pytorch(arrays, model="mamba4rec", max_len=50)
    for wrapped in (
        {f"module.{name}": array for name, array in arrays.items()},
        {f"_orig_mod.module.{name}": array for name, array in arrays.items()},
        {name.replace(".mamba.", "._orig_mod.mamba."): array for name, array in arrays.items()},
    ):
        model = from_pytorch(wrapped, model="mamba4rec", max_len=50)
        jax.tree.map(np.testing.assert_array_equal, nnx.state(model), nnx.state(plain))
    with pytest.raises(ValueError, match="arrays have one name"):
        from_pytorch(arrays | wrapped, model="mamba4rec", max_len=50)


def test_unknown_model_and_window():
    with pytest.raises(ValueError, match="unknown model 'gru'"):
        from_pytorch({}, model="gru", max_len=50)
