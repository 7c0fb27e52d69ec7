"""Weights from the original PyTorch models, by their own names."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.models.base import SequenceModel
from echojax.models.echomamba4rec import VARIANTS, EchoMamba4Rec
from echojax.models.mamba import Mamba
from echojax.models.mamba4rec import Mamba4Rec

# How an array of the original lies here: (from the original's shape to ours).
_LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda array: array,
    "linear": lambda array: array.T,  # (out, in) -> (in, out)
    "conv": lambda array: array[:, 0].T,  # (channels, 1, taps) -> (taps, channels)
    "filter": lambda array: array[0],  # (1, frequencies, channels, 2) -> without the 1
}
_RANKS = {"linear": 2, "conv": 3, "filter": 4}
_NEVER_USED = "multi_query_transformer_block."  # built by the authors' layer, never called

_Entry = tuple[str, nnx.Param, str]  # the original's name, our parameter, its layout


def from_pytorch(
    state_dict: Mapping[str, np.ndarray], *, model: str, max_len: int
) -> EchoMamba4Rec | Mamba4Rec:
    """Build a model that computes the same function as the original with these weights.

    Args:
        state_dict: the original's ``state_dict()`` as NumPy arrays, by the original names. Sizes
            are read off the arrays. Their dtype is kept (float64 where x64 is enabled).
        model: ``"echomamba4rec"`` (the authors' function, ``variant="official"``) or
            ``"mamba4rec"``.
        max_len: the original's ``MAX_ITEM_LIST_LENGTH``.

    Returns:
        The model; ``encode`` and ``scores`` run without dropout.

    Raises:
        ValueError: an array is missing, unknown or of the wrong shape (named), or the model is.
    """
    if model not in _BUILDERS:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(_BUILDERS)}")
    build, entries = _BUILDERS[model]
    sizes = _sizes(state_dict)
    abstract = nnx.eval_shape(lambda: build(max_len=max_len, **sizes, rngs=nnx.Rngs(0)))
    expected = {name: (param, layout) for name, param, layout in entries(abstract)}
    _check_names(state_dict, expected)
    for name, (param, layout) in expected.items():
        param.set_value(jnp.asarray(_converted(name, state_dict[name], param, layout)))
    return abstract


def _sizes(state_dict: Mapping[str, np.ndarray]) -> dict[str, int]:
    def first(suffix: str, ndim: int) -> np.ndarray:
        for name, array in state_dict.items():
            if name.endswith(suffix):
                if np.ndim(array) != ndim:
                    raise ValueError(
                        f"{name} has shape {np.shape(array)}; {ndim} dimensions expected"
                    )
                return np.asarray(array)
        raise ValueError(f"missing array: none is named ...{suffix}")

    num_items, width = first("item_embedding.weight", 2).shape
    channels, state_size = first("A_log", 2).shape
    layers = {name.split(".")[1] for name in state_dict if name.startswith("mamba_layers.")}
    return {
        "num_items": num_items,
        "width": width,
        "layers": len(layers),
        "state_size": state_size,
        "conv_width": first("conv1d.weight", 3).shape[2],
        "expand": max(1, channels // width),
    }


def _check_names(state_dict: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    missing = [name for name in expected if name not in state_dict]
    if missing:
        raise ValueError(f"missing array: {', '.join(missing)}")
    extra = [name for name in state_dict if name not in expected and _NEVER_USED not in name]
    if extra:
        raise ValueError(f"unknown array: {', '.join(extra)}")


def _converted(name: str, array: np.ndarray, param: nnx.Param, layout: str) -> np.ndarray:
    array, shape = np.asarray(array), param.shape
    # A layout can only be applied to an array of its rank; the shape is compared behind it.
    fits = array.ndim == _RANKS.get(layout, len(shape))
    if not fits or _LAYOUTS[layout](array).shape != shape:
        raise ValueError(
            f"{name} has shape {array.shape}, which does not fit the other arrays "
            f"({layout} layout of {shape} expected)"
        )
    return _LAYOUTS[layout](array)


def _norm(prefix: str, norm: nnx.LayerNorm) -> Iterator[_Entry]:
    yield f"{prefix}.weight", norm.scale, "same"
    yield f"{prefix}.bias", norm.bias, "same"


def _linear(prefix: str, linear: nnx.Linear) -> Iterator[_Entry]:
    yield f"{prefix}.weight", linear.kernel, "linear"
    if linear.bias is not None:
        yield f"{prefix}.bias", linear.bias, "same"


def _mamba(prefix: str, mamba: Mamba) -> Iterator[_Entry]:
    yield f"{prefix}.A_log", mamba.A_log_ExN, "same"
    yield f"{prefix}.D", mamba.D_E, "same"
    yield f"{prefix}.conv1d.weight", mamba.conv_kernel_KxE, "conv"
    yield f"{prefix}.conv1d.bias", mamba.conv_bias_E, "same"
    yield f"{prefix}.dt_proj.bias", mamba.dt_bias_E, "same"
    for name in ("in_proj", "x_proj", "dt_proj", "out_proj"):
        yield from _linear(f"{prefix}.{name}", getattr(mamba, name))


def _embedding(model: SequenceModel) -> Iterator[_Entry]:
    yield "item_embedding.weight", model.item_embedding, "same"
    yield from _norm("LayerNorm", model.norm)


def _echomamba4rec(model: EchoMamba4Rec) -> Iterator[_Entry]:
    yield from _embedding(model)
    for i, layer in enumerate(model.layers):
        prefix = f"mamba_layers.{i}"
        yield f"{prefix}.filter_layer.complex_weight", layer.filter.weight_FxDx2, "filter"
        yield from _norm(f"{prefix}.filter_layer.LayerNorm", layer.filter.norm)
        for k, both in enumerate(layer.mambas):
            yield from _mamba(f"{prefix}.mamba_forwards.{k}", both.forward)
            yield from _mamba(f"{prefix}.mamba_backwards.{k}", both.backward)
            yield from _norm(f"{prefix}.norms_forward.{k}", both.norm_forward)
            yield from _norm(f"{prefix}.norms_backward.{k}", both.norm_backward)
        yield from _linear(f"{prefix}.glu.fc1", layer.glu.fc1)
        yield from _linear(f"{prefix}.glu.fc2", layer.glu.fc2)
        yield from _norm(f"{prefix}.glu.LayerNorm", layer.glu.norm)


def _mamba4rec(model: Mamba4Rec) -> Iterator[_Entry]:
    yield from _embedding(model)
    for i, layer in enumerate(model.layers):
        prefix = f"mamba_layers.{i}"
        yield from _mamba(f"{prefix}.mamba", layer.mamba)
        yield from _norm(f"{prefix}.LayerNorm", layer.norm)
        yield from _linear(f"{prefix}.ffn.w_1", layer.ffn.w_1)
        yield from _linear(f"{prefix}.ffn.w_2", layer.ffn.w_2)
        yield from _norm(f"{prefix}.ffn.LayerNorm", layer.ffn.norm)


def _official(**sizes: Any) -> EchoMamba4Rec:
    return EchoMamba4Rec(mends=VARIANTS["official"], **sizes)


_BUILDERS: dict[str, tuple[Callable[..., Any], Callable[[Any], Iterator[_Entry]]]] = {
    "echomamba4rec": (_official, _echomamba4rec),
    "mamba4rec": (Mamba4Rec, _mamba4rec),
}
