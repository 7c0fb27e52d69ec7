"""The example: a language model by Mamba, with weights of the published layout and shapes."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

D, E, N, K, R = 768, 1536, 16, 4, 48  # of mamba-130m


@pytest.fixture(scope="module")
def mamba():
    sys.path.append(str(Path(__file__).parents[2] / "kernels" / "examples"))
    import mamba

    yield mamba
    sys.path.pop()


def made_up(layers, vocabulary):
    """Return tensors by the names of mamba-130m-hf, in its layout."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape) / np.sqrt(shape[-1])  # noqa: E731
    tensors = {"backbone.embeddings.weight": draw(vocabulary, D) * 5}
    tensors["backbone.norm_f.weight"] = 1 + draw(D)
    for i in range(layers):
        one = {
            "in_proj.weight": draw(2 * E, D),
            "conv1d.weight": draw(E, 1, K),
            "conv1d.bias": draw(E),
            "x_proj.weight": draw(R + 2 * N, E),
            "dt_proj.weight": draw(E, R),
            "dt_proj.bias": rng.uniform(-7, -2, E),
            "A_log": np.log(np.tile(np.arange(1.0, N + 1), (E, 1))) + 0.1 * draw(E, N),
            "D": 1 + draw(E),
            "out_proj.weight": draw(D, E),
        }
        tensors |= {f"backbone.layers.{i}.mixer.{name}": x for name, x in one.items()}
        tensors[f"backbone.layers.{i}.norm.weight"] = 1 + draw(D)
    return {name: np.float32(x) for name, x in tensors.items()}


def by_the_equations(tensors, ids):
    """Return the logits of one row of tokens, (L, V), in float64, position by position."""
    wide = {k.removeprefix("backbone."): np.float64(x) for k, x in tensors.items()}
    silu = lambda x: x / (1 + np.exp(-x))  # noqa: E731
    norm = lambda x, name: x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-5) * wide[name]  # noqa: E731
    x = wide["embeddings.weight"][ids]
    layers = sum(name.endswith("A_log") for name in wide)
    for i in range(layers):
        own = {k.removeprefix(f"layers.{i}.mixer."): v for k, v in wide.items()}
        inner = norm(x, f"layers.{i}.norm.weight") @ own["in_proj.weight"].T
        h, outputs = np.zeros((E, N)), []
        for position in range(len(ids)):
            past = range(max(0, position - K + 1), position + 1)
            taps = own["conv1d.weight"][:, 0, K - len(past) :]
            u = silu(np.sum(inner[past, :E].T * taps, 1) + own["conv1d.bias"])
            dt, B, C = np.split(own["x_proj.weight"] @ u, [R, R + N])
            t = np.logaddexp(own["dt_proj.weight"] @ dt + own["dt_proj.bias"], 0)
            h = np.exp(-t[:, None] * np.exp(own["A_log"])) * h + np.outer(t * u, B)
            outputs.append((h @ C + own["D"] * u) * silu(inner[position, E:]))
        x = x + np.array(outputs) @ own["out_proj.weight"].T
    return norm(x, "norm_f.weight") @ wide["embeddings.weight"].T


@pytest.mark.parametrize(
    ("layers", "vocabulary"), [(2, 60), pytest.param(24, 50280, marks=pytest.mark.slow)]
)
def test_logits_equal_the_equations(mamba, layers, vocabulary, tmp_path):
    tensors = made_up(layers, vocabulary)
    save_file(tensors, tmp_path / "model.safetensors")
    model = mamba.load(tmp_path / "model.safetensors")
    ids = np.random.default_rng(1).integers(vocabulary, size=(2, 9))
    expected = np.stack([by_the_equations(tensors, row) for row in ids])
    limits = {"rtol": 1e-4, "atol": 1e-4 * np.max(np.abs(expected))}
    np.testing.assert_allclose(
        nnx.jit(lambda model, ids: model(ids))(model, ids), expected, **limits
    )

    @nnx.jit
    def one_by_one(model, ids):
        return jax.lax.scan(model.step, model.start(len(ids)), ids.T)[1]

    np.testing.assert_allclose(one_by_one(model, ids).swapaxes(0, 1), expected, **limits)
    found = mamba.generate(model, jnp.asarray(ids), 2)
    np.testing.assert_array_equal(found[:, 0], np.argmax(expected[:, -1], -1))


def test_files_of_something_else_are_refused(mamba, tmp_path):
    tensors, path = made_up(1, 9), tmp_path / "model.safetensors"
    name = "backbone.layers.0.mixer.dt_proj.bias"
    without = {k: x for k, x in tensors.items() if k != name}
    for wrong, match in (
        ({"weight": tensors[name]}, "lacks 'embeddings.weight'"),
        (without, "layers.0.mixer.dt_proj.bias is missing"),
        (without | {name: tensors[name][:-1]}, r"layers.0.mixer.dt_proj.bias has shape \(1535,"),
        (
            tensors | {"lm_head.weight": np.ones((9, D), np.float32)},
            "is not the embedding; this model ties",
        ),
    ):
        save_file(wrong, path)
        with pytest.raises(ValueError, match=match):
            mamba.load(path)
