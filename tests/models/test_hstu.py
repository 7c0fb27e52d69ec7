"""HSTU against its equations, and its promises."""

import functools

import numpy as np

from echojax.models.hstu import HSTU
from tests.models import float64_layers as layers
from tests.models.promises import CausalPromises, TimedCausalPromises


class TestHSTU(CausalPromises):
    kind = HSTU

    def encode(self, p, items, gaps=None):
        x = p["item_embedding"][items] * np.sqrt(8) + p["position_LxD"][: len(items)]
        for layer in p["layers"].values():
            x = hstu_layer(layer, x, gaps, heads=2, max_len=7)
        return x[-1] / np.linalg.norm(x[-1]) / 0.05

    def output_embeddings(self, p):
        table = p["item_embedding"]
        return table / np.linalg.norm(table, axis=1, keepdims=True)


class TestTimed(TimedCausalPromises):
    kind = staticmethod(functools.partial(HSTU, time_gaps=True))
    encode, output_embeddings = TestHSTU.encode, TestHSTU.output_embeddings


def hstu_layer(p, x, gaps, heads, max_len):
    """Equations 1 to 3: pointwise projection, spatial aggregation, pointwise transformation."""
    normed = layers.standardise(x, 1e-6)
    u, q = np.split(layers.silu(layers.linear(p["f1_uq"], normed)), 2, axis=1)
    v, k = np.split(layers.silu(layers.linear(p["f1_vk"], normed)), 2, axis=1)
    av = np.zeros_like(x)
    times = np.zeros((len(x), len(x))) if gaps is None else layers.time_bias(p["time_bias"], gaps)
    for columns in np.split(np.arange(x.shape[1]), heads):
        for i in range(len(x)):
            for j in range(i + 1):
                bias = p["bias_L"][i - j] + times[i, j]
                weight = layers.silu(q[i, columns] @ k[j, columns] + bias) / max_len
                av[i, columns] += weight * v[j, columns]
    return layers.linear(p["f2"], layers.standardise(av, 1e-6) * u) + x
