"""Weights in and out: safetensors files and the original PyTorch models' checkpoints."""

from echojax.interop.originals import from_pytorch
from echojax.interop.pytorch_file import read_pytorch
from echojax.interop.safetensors import read_safetensors, write_safetensors
from echojax.interop.weights import load_weights, weights

__all__ = [
    "from_pytorch",
    "load_weights",
    "read_pytorch",
    "read_safetensors",
    "weights",
    "write_safetensors",
]
