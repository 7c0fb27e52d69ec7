"""What the original PyTorch models call our parameters, and how they lay them."""

from collections.abc import Callable, Iterator

import numpy as np
from flax import nnx

from echojax.models.base import SequenceModel
from echojax.models.echomamba4rec import EchoMamba4Rec
from echojax.models.mamba import Mamba
from echojax.models.mamba4rec import Mamba4Rec

# How an array of the original lies here: (from the original's shape to ours).
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda array: array,
    "linear": lambda array: array.T,  # (out, in) -> (in, out)
    "conv": lambda array: array[:, 0].T,  # (channels, 1, taps) -> (taps, channels)
    "filter": lambda array: array[0],  # (1, frequencies, channels, 2) -> without the 1
}
RANKS = {"linear": 2, "conv": 3, "filter": 4}
NEVER_USED = "multi_query_transformer_block."  # built by the authors' layer, never called

Entry = tuple[str, nnx.Param, str]  # the original's name, our parameter, its layout


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


def echomamba4rec(model: EchoMamba4Rec) -> Iterator[Entry]:
    """Return the entries of the authors' EchoMamba4Rec."""
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


def mamba4rec(model: Mamba4Rec) -> Iterator[Entry]:
    """Return the entries of the authors' Mamba4Rec."""
    yield from _embedding(model)
    for i, layer in enumerate(model.layers):
        prefix = f"mamba_layers.{i}"
        yield from _mamba(f"{prefix}.mamba", layer.mamba)
        yield from _norm(f"{prefix}.LayerNorm", layer.norm)
        yield from _linear(f"{prefix}.ffn.w_1", layer.ffn.w_1)
        yield from _linear(f"{prefix}.ffn.w_2", layer.ffn.w_2)
        yield from _norm(f"{prefix}.ffn.LayerNorm", layer.ffn.norm)
