"""The layers of the papers for one history, (L, D), in NumPy float64, as plainly as they go.

``p`` holds a layer's parameters by name, as ``nnx.to_pure_dict`` gives them.
"""

import math

import numpy as np


def linear(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def standardise(x, epsilon):
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + epsilon)


def layer_norm(p, x, epsilon=1e-12):
    return standardise(x, epsilon) * p["scale"] + p["bias"]


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def feed_forward(p, x):
    return layer_norm(p["norm"], linear(p["w_2"], gelu(linear(p["w_1"], x))) + x)


def spectral_filter(p, x):
    """The circular convolution by its sums of cosines and sines, no fast transform."""
    window = len(x)
    response = p["weight_FxDx2"][..., 0] + 1j * p["weight_FxDx2"][..., 1]
    turns = np.outer(np.arange(window // 2 + 1), np.arange(window)) / window
    spectrum = np.exp(-2j * np.pi * turns) @ x * response
    # A real signal has each frequency twice, but for 0 and that of alternating signs.
    times = np.where((turns[:, 1] == 0) | (turns[:, 1] == 0.5), 1, 2)[:, None]
    y = (np.exp(2j * np.pi * turns).T @ (times * spectrum)).real / window
    return layer_norm(p["norm"], y + x)


def place(p, x):
    return layer_norm(p["norm"], x + p["position_LxD"][: len(x)])


def time_bias(p, gaps):
    """Return the bias of attention's scores by the time from event j to event i >= j, (L, L)."""
    times = np.cumsum(np.expm1(gaps))
    passed = np.maximum(times[:, None] - times, 0)
    return p["bias_W"][np.minimum(np.log1p(passed) / 0.301, 127).astype(int)]


def attention(p, x, heads, causal, gaps=None):
    return layer_norm(p["norm"], linear(p["out"], attend(p, x, heads, causal, gaps)) + x)


def attend(p, x, heads, causal, gaps=None):
    query, key, value = (linear(p[name], x) for name in ("query", "key", "value"))
    out = np.zeros_like(x)
    bias = np.zeros((len(x), len(x))) if gaps is None else time_bias(p["time_bias"], gaps)
    for columns in np.split(np.arange(x.shape[1]), heads):
        for l in range(len(x)):
            seen = slice(0, l + 1 if causal else len(x))
            logits = key[seen, columns] @ query[l, columns] / math.sqrt(columns.size)
            logits = logits + bias[l, seen]
            out[l, columns] = softmax(logits) @ value[seen, columns]
    return out


def transformer(p, x, heads, causal, gaps=None):
    x = place(p["positions"], x)
    for layer in p["layers"].values():
        x = feed_forward(layer["ffn"], attention(layer["attention"], x, heads, causal, gaps))
    return x


def gru(p, x):
    """PyTorch's equations, gates in the order r, z, n."""
    bias_x, bias_h = p.get("bias_2x3H", np.zeros((2, 1)))
    h, states = np.zeros(p["h_kernel_Hx3H"].shape[0]), []
    for row in x:
        xr, xz, xn = np.split(row @ p["x_kernel_Dx3H"] + bias_x, 3)
        hr, hz, hn = np.split(h @ p["h_kernel_Hx3H"] + bias_h, 3)
        n = np.tanh(xn + sigmoid(xr + hr) * hn)
        h = (1 - sigmoid(xz + hz)) * n + sigmoid(xz + hz) * h
        states.append(h)
    return np.stack(states)
