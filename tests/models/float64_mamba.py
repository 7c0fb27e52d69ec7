"""Mamba, Mamba4Rec and EchoMamba4Rec for one history in NumPy float64, event after event.

``p`` holds parameters by name, as ``nnx.to_pure_dict`` gives them.
"""

import numpy as np

from tests.models.float64_layers import (
    feed_forward,
    layer_norm,
    linear,
    sigmoid,
    silu,
    spectral_filter,
)


def selected(p, x, gaps=None):
    """Return what Mamba's recurrence reads at each position: u, delta, B, C and the gate z."""
    u, z = np.split(linear(p["in_proj"], x), 2, axis=1)
    taps = p["conv_kernel_KxE"]
    before = np.concatenate([np.zeros((len(taps) - 1, u.shape[1])), u])
    u = silu(p["conv_bias_E"] + sum(tap * before[k : k + len(u)] for k, tap in enumerate(taps)))
    rank, states = p["dt_proj"]["kernel"].shape[0], p["A_log_ExN"].shape[1]
    dt, B, C = np.split(linear(p["x_proj"], u), [rank, rank + states], axis=1)
    delta = linear(p["dt_proj"], dt) + p["dt_bias_E"]
    if gaps is not None:
        delta = delta + np.outer(gaps, p["gap_E"])
    return u, np.logaddexp(0, delta), B, C, z


def mamba(p, x, gaps=None):
    """Return Mamba's outputs, (L, D): arXiv 2312.00752, algorithm 2 with its block around it."""
    u, delta, B, C, z = selected(p, x, gaps)
    A = -np.exp(p["A_log_ExN"])
    h, y = np.zeros_like(A), np.zeros_like(u)
    for l in range(len(x)):
        h = np.exp(delta[l, :, None] * A) * h + np.outer(delta[l] * u[l], B[l])
        y[l] = h @ C[l] + p["D_E"] * u[l]
    return linear(p["out_proj"], y * silu(z))


def mamba4rec(p, items, gaps=None):
    """Return the vector of a history."""
    x = layer_norm(p["norm"], p["item_embedding"][items])
    for layer in p["layers"].values():
        y = mamba(layer["mamba"], x, gaps)
        x = feed_forward(layer["ffn"], layer_norm(layer["norm"], y + x * (len(p["layers"]) > 1)))
    return x[-1]


def echomamba4rec(p, items, window, corrections, gaps=None):
    """Return the vector of a history that is padded with item 0 to ``window`` positions."""
    length = len(items)
    x = layer_norm(p["norm"], p["item_embedding"][[*items, *[0] * (window - length)]])
    for layer in p["layers"].values():
        x = x * (np.arange(window) < length)[:, None] if corrections.mask_padding else x
        if "filter" in layer:
            filtered = causal_filter if corrections.causal_filter else spectral_filter
            x = filtered(layer["filter"], x)
        x = x * (np.arange(window) < length)[:, None] if corrections.mask_padding else x
        for bidirectional in layer["mambas"].values():
            ahead, back = both_directions(bidirectional, x, length, corrections, gaps)
            read, x = x[length - 1], ahead + normed(bidirectional, "norm_backward", back, x)
        # What the scores see of the last layer: forward at the last item, backward there too or
        # at the first, both added to the last item.
        back = back[0 if corrections.join_both_ends else length - 1] if back is not None else None
        user = ahead[length - 1] + normed(bidirectional, "norm_backward", back, read)
        if "glu" in layer:
            x, user = glu(layer["glu"], x), glu(layer["glu"], user)
    return user


def both_directions(p, x, length, corrections, gaps=None):
    """Return the forward branch and the backward Mamba's outputs (None: there is none).

    With the gaps of ``length`` events nothing is read of padding.
    """
    before = after = None
    if gaps is not None:
        before = np.pad(gaps, (0, len(x) - length))
        after = np.append(gaps[1:], 0)[::-1]  # from each event to the next, and none to the target
    ahead = normed(p, "norm_forward", mamba(p["forward"], x, before), x)
    if "backward" not in p:
        return ahead, None
    stop = length if corrections.reverse_from_last else len(x)
    back = np.zeros_like(x)
    back[:stop] = mamba(p["backward"], x[:stop][::-1], after)[::-1]
    return ahead, back


def normed(p, name, y, x):
    return 0 if y is None else layer_norm(p[name], y + x, 1e-5)


def causal_filter(p, x):
    """The convolution with the first taps of the learned response, sum by sum."""
    window = len(x)
    response = p["weight_FxDx2"][..., 0] + 1j * p["weight_FxDx2"][..., 1]
    taps = np.fft.irfft(response, n=window, axis=0)
    y = [sum(taps[k] * x[m - k] for k in range(m + 1)) for m in range(window)]
    return layer_norm(p["norm"], np.stack(y) + x)


def glu(p, x):
    value, gate = np.split(linear(p["fc1"], x), 2, axis=-1)
    return layer_norm(p["norm"], linear(p["fc2"], value * sigmoid(gate)) + x)
