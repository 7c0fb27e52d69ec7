"""Weights from the original PyTorch models, by their own names."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.interop.original_names import (
    LAYOUTS,
    NEVER_USED,
    RANKS,
    Entry,
    echomamba4rec,
    mamba4rec,
)
from echojax.models.echomamba4rec import VARIANTS, EchoMamba4Rec
from echojax.models.mamba4rec import Mamba4Rec


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

    num_items, d_model = first("item_embedding.weight", 2).shape
    channels, d_state = first("A_log", 2).shape
    layers = {name.split(".")[1] for name in state_dict if name.startswith("mamba_layers.")}
    return {
        "num_items": num_items,
        "d_model": d_model,
        "layers": len(layers),
        "d_state": d_state,
        "d_conv": first("conv1d.weight", 3).shape[2],
        "expand": max(1, channels // d_model),
    }


def _check_names(state_dict: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    missing = [name for name in expected if name not in state_dict]
    if missing:
        raise ValueError(f"missing array: {', '.join(missing)}")
    extra = [name for name in state_dict if name not in expected and NEVER_USED not in name]
    if extra:
        raise ValueError(f"unknown array: {', '.join(extra)}")


def _converted(name: str, array: np.ndarray, param: nnx.Param, layout: str) -> np.ndarray:
    array, shape = np.asarray(array), param.shape
    # A layout can only be applied to an array of its rank; the shape is compared behind it.
    fits = array.ndim == RANKS.get(layout, len(shape))
    if not fits or LAYOUTS[layout](array).shape != shape:
        raise ValueError(
            f"{name} has shape {array.shape}, which does not fit the other arrays "
            f"({layout} layout of {shape} expected)"
        )
    return LAYOUTS[layout](array)


def _official(**sizes: Any) -> EchoMamba4Rec:
    return EchoMamba4Rec(corrections=VARIANTS["official"], **sizes)


_BUILDERS: dict[str, tuple[Callable[..., Any], Callable[[Any], Iterator[Entry]]]] = {
    "echomamba4rec": (_official, echomamba4rec),
    "mamba4rec": (Mamba4Rec, mamba4rec),
}
