"""Weights of the original PyTorch models, by their own names and in their own layouts."""

import re
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
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda array: array,
    "linear": lambda array: array.T,  # (out, in) -> (in, out)
    "conv": lambda array: array[:, 0].T,  # (channels, 1, taps) -> (taps, channels)
    "filter": lambda array: array[0],  # (1, frequencies, channels, 2) -> without the 1
}
_RANKS = {"linear": 2, "conv": 3, "filter": 4}
_NEVER_USED = "multi_query_transformer_block."  # built by the authors' layer, never called
# What torch.compile puts into names, and DataParallel before them.
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")

Entry = tuple[str, nnx.Param, str]  # the original's name, our parameter, its layout


def from_pytorch(
    state_dict: Mapping[str, np.ndarray], *, model: str, max_len: int
) -> EchoMamba4Rec | Mamba4Rec:
    """Build a model that computes the same function as the original with these weights.

    Args:
        state_dict: the original's ``state_dict()`` as NumPy arrays, by the original names, also
            where ``DataParallel`` or ``torch.compile`` wrapped it (``module.``, ``_orig_mod.``).
            Sizes are read off the arrays. Their dtype is kept (float64 where x64 is enabled).
        model: ``"echomamba4rec"`` (the authors' function, ``variant="official"``) or
            ``"mamba4rec"``.
        max_len: the original's ``MAX_ITEM_LIST_LENGTH``.

    Returns:
        The model; ``encode`` and ``scores`` run without dropout.

    Raises:
        ValueError: an array is missing, unknown or of the wrong shape (named), or the model is.
    """
    if model not in ENTRIES:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(ENTRIES)}")
    arrays = {_WRAPPERS.sub("", name): np.asarray(array) for name, array in state_dict.items()}
    if len(arrays) < len(state_dict):
        raise ValueError("arrays have one name but for 'module.' or '_orig_mod.'; give one model")
    options: dict[str, Any] = {"max_len": max_len, **_sizes(arrays)}
    kind: type[EchoMamba4Rec | Mamba4Rec] = Mamba4Rec
    if model == "echomamba4rec":
        kind, options["corrections"] = EchoMamba4Rec, VARIANTS["official"]
    built = nnx.eval_shape(lambda: kind(**options, rngs=nnx.Rngs(0)))
    expected = {name: (param, layout) for name, param, layout in ENTRIES[model](built)}
    _check_names(arrays, expected)
    for name, (param, layout) in expected.items():
        param.set_value(jnp.asarray(_converted(name, arrays[name], param, layout)))
    return built


def _sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    def first(suffix: str, ndim: int) -> np.ndarray:
        for name, array in arrays.items():
            if name.endswith(suffix):
                if array.ndim != ndim:
                    raise ValueError(f"{name} has shape {array.shape}; {ndim} dimensions expected")
                return array
        raise ValueError(f"missing array: none is named ...{suffix}")

    num_items, d_model = first("item_embedding.weight", 2).shape
    channels, d_state = first("A_log", 2).shape
    return {
        "num_items": num_items,
        "d_model": d_model,
        "layers": len({name.split(".")[1] for name in arrays if name.startswith("mamba_layers.")}),
        "d_state": d_state,
        "d_conv": first("conv1d.weight", 3).shape[2],
        "expand": max(1, channels // d_model),
    }


def _check_names(arrays: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    missing = [name for name in expected if name not in arrays]
    if missing:
        raise ValueError(f"missing array: {', '.join(missing)}")
    extra = [name for name in arrays if name not in expected and _NEVER_USED not in name]
    if extra:
        raise ValueError(f"unknown array: {', '.join(extra)}")


def _converted(name: str, array: np.ndarray, param: nnx.Param, layout: str) -> np.ndarray:
    # A layout can only be applied to an array of its rank; the shape is compared after it.
    fits = array.ndim == _RANKS.get(layout, len(param.shape))
    if not fits or LAYOUTS[layout](array).shape != param.shape:
        raise ValueError(
            f"{name} has shape {array.shape}, which does not fit the other arrays "
            f"({layout} layout of {param.shape} expected)"
        )
    return LAYOUTS[layout](array)


def _norm(prefix: str, norm: nnx.LayerNorm) -> Iterator[Entry]:
    yield f"{prefix}.weight", norm.scale, "same"
    yield f"{prefix}.bias", norm.bias, "same"


def _linear(prefix: str, linear: nnx.Linear) -> Iterator[Entry]:
    yield f"{prefix}.weight", linear.kernel, "linear"
    if linear.bias is not None:
        yield f"{prefix}.bias", linear.bias, "same"


def _mamba(prefix: str, mamba: Mamba) -> Iterator[Entry]:
    yield f"{prefix}.A_log", mamba.A_log_ExN, "same"
    yield f"{prefix}.D", mamba.D_E, "same"
    yield f"{prefix}.conv1d.weight", mamba.conv_kernel_KxE, "conv"
    yield f"{prefix}.conv1d.bias", mamba.conv_bias_E, "same"
    yield f"{prefix}.dt_proj.bias", mamba.dt_bias_E, "same"
    for name in ("in_proj", "x_proj", "dt_proj", "out_proj"):
        yield from _linear(f"{prefix}.{name}", getattr(mamba, name))


def _embedding(model: SequenceModel) -> Iterator[Entry]:
    yield "item_embedding.weight", model.item_embedding, "same"
    yield from _norm("LayerNorm", model.norm)


def _echomamba4rec(model: EchoMamba4Rec) -> Iterator[Entry]:
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


def _mamba4rec(model: Mamba4Rec) -> Iterator[Entry]:
    yield from _embedding(model)
    for i, layer in enumerate(model.layers):
        prefix = f"mamba_layers.{i}"
        yield from _mamba(f"{prefix}.mamba", layer.mamba)
        yield from _norm(f"{prefix}.LayerNorm", layer.norm)
        yield from _linear(f"{prefix}.ffn.w_1", layer.ffn.w_1)
        yield from _linear(f"{prefix}.ffn.w_2", layer.ffn.w_2)
        yield from _norm(f"{prefix}.ffn.LayerNorm", layer.ffn.norm)


# What the original of each model calls our parameters, and how it lays them.
ENTRIES: dict[str, Callable[[Any], Iterator[Entry]]] = {
    "echomamba4rec": _echomamba4rec,
    "mamba4rec": _mamba4rec,
}
