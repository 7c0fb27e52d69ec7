"""Weights of the original PyTorch models, with their names and layouts."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.models.echomamba4rec import VARIANTS, EchoMamba4Rec
from echojax.models.mamba4rec import Mamba4Rec
from echojax.parameters import names_of

_MODELS: dict[str, Callable[..., EchoMamba4Rec | Mamba4Rec]] = {
    "echomamba4rec": partial(EchoMamba4Rec, corrections=VARIANTS["official"]),
    "mamba4rec": Mamba4Rec,
}
# By the end of our name: the number of axes in the original, and the conversion to our layout.
_LAYOUTS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    ".kernel": (2, lambda array: array.T),  # (out, in) -> (in, out)
    ".conv_kernel_KxE": (3, lambda array: array[:, 0].T),  # (channels, 1, taps) -> (taps, channels)
    ".weight_FxDx2": (4, lambda array: array[0]),  # (1, frequencies, channels, 2) without the 1
}
# Replacements that turn our names into those of the originals, applied one after another.
_RENAMED = (
    (r"^layers\.", "mamba_layers."),
    (r"mambas\.(\d+)\.(forward|backward)\.", r"mamba_\2s.\1."),
    (r"mambas\.(\d+)\.norm_(forward|backward)\.", r"norms_\2.\1."),
    (r"\bfilter\.", "filter_layer."),
    (r"\bnorm\.", "LayerNorm."),
    (r"conv_kernel_KxE$", "conv1d.weight"),
    (r"conv_bias_E$", "conv1d.bias"),
    (r"dt_bias_E$", "dt_proj.bias"),
    (r"weight_FxDx2$", "complex_weight"),
    (r"(A_log|D)_E(xN)?$", r"\1"),
    (r"(kernel|scale)$", "weight"),
    (r"^item_embedding$", "item_embedding.weight"),
)
_NEVER_USED = "multi_query_transformer_block."  # built by the authors' layer, but never called
# Prefixes that DataParallel and torch.compile add to names.
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")


def from_pytorch(
    state_dict: Mapping[str, np.ndarray], *, model: str, max_len: int
) -> EchoMamba4Rec | Mamba4Rec:
    """Build a model that computes the same function as the original with these weights.

    Args:
        state_dict: The original's ``state_dict()`` as NumPy arrays, by the original names, with or
            without prefixes of ``DataParallel`` or ``torch.compile`` (``module.``, ``_orig_mod.``).
            Sizes are inferred from the arrays, and their dtypes are kept (float64 needs x64).
        model: ``"echomamba4rec"`` (the authors' function, ``variant="official"``) or
            ``"mamba4rec"``.
        max_len: the original's ``MAX_ITEM_LIST_LENGTH``.

    Returns:
        The model; ``encode`` and ``scores`` run without dropout.

    Raises:
        ValueError: An array is missing, unknown or of the wrong shape, or the model is unknown.
    """
    if model not in _MODELS:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(_MODELS)}")
    arrays = {_WRAPPERS.sub("", name): np.asarray(array) for name, array in state_dict.items()}
    if len(arrays) < len(state_dict):
        raise ValueError("arrays have one name but for 'module.' or '_orig_mod.'; give one model")
    sizes = _sizes(arrays)
    built = nnx.eval_shape(lambda: _MODELS[model](**sizes, max_len=max_len, rngs=nnx.Rngs(0)))
    state = nnx.state(built, nnx.Param)
    expected = {theirs: (ours, param) for ours, theirs, param in named_as_original(state)}
    missing = [name for name in expected if name not in arrays]
    if missing:
        raise ValueError(f"missing array: {', '.join(missing)}")
    extra = [name for name in arrays if name not in expected and _NEVER_USED not in name]
    if extra:
        raise ValueError(f"unknown array: {', '.join(extra)}")
    for name, (ours, param) in expected.items():
        array = as_ours(ours, arrays[name])
        if array is None or array.shape != param.shape:
            raise ValueError(
                f"{name} has shape {arrays[name].shape}, which does not fit the other arrays "
                f"({ours} of {param.shape} expected)"
            )
        param.set_value(jnp.asarray(array))
    nnx.update(built, state)
    return built


def named_as_original(state: nnx.State) -> Iterator[tuple[str, str, nnx.Variable]]:
    """Yield the name of each parameter here, its name in the original, and the parameter."""
    for ours, param in names_of(state).items():
        theirs = ours
        for pattern, name in _RENAMED:
            theirs = re.sub(pattern, name, theirs)
        yield ours, theirs, param


def as_ours(name: str, array: np.ndarray) -> np.ndarray | None:
    """Return an array of the original in the layout of our parameter with this name.

    The result is ``None`` if the array has the wrong number of axes.
    """
    for ending, (axes, layout) in _LAYOUTS.items():
        if name.endswith(ending):
            return layout(array) if array.ndim == axes else None
    return array


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
