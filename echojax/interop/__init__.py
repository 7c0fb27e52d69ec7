"""Weights in and out: safetensors files, and state dicts of the original PyTorch models."""

from echojax.interop.originals import from_pytorch
from echojax.interop.safetensors import read_safetensors, write_safetensors
from echojax.interop.weights import load_weights, weights

__all__ = [
    "from_pytorch",
    "load_weights",
    "read_safetensors",
    "weights",
    "write_safetensors",
]
