"""Layers that models share; their initial values are those of the authors' PyTorch code."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from echojax.models.positions import TimeSharded, whole_length

# A random key for each row of the batch, (B,); ``None`` switches dropout off (evaluation).
Keys = Array | None
# Log gaps, (B, L), for a model that reads the times between events; otherwise ``None``.
Gaps = Array | None

# Every linear layer and the item table: N(0, 0.02), the authors' `_init_weights`.
normal = nnx.initializers.normal(0.02)


def uniform_within(bound: float) -> nnx.Initializer:
    """Return an initializer that draws uniformly from (-bound, bound)."""

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def dropout(x: Array, rate: float | Array, keys_B: Keys, time_axis: str | None = None) -> Array:
    """Zero each element with probability ``rate`` and scale the rest by ``1 / (1 - rate)``.

    The mask of a row depends only on the key of the row. It is therefore the same in microbatches,
    on another number of devices, or when several seeds are trained together.

    The rate, in [0, 1), is rounded to 16 bits. It may be traced, so that one program serves all
    rates. If a mapped ``time_axis`` gives this device a shard of the positions of x (B, L, D), the
    device uses its part of the mask of all positions.
    """
    traced = isinstance(rate, Array)
    if keys_B is None or (not traced and rate == 0.0):
        return x
    # 16 random bits are enough, and cost half as much as 32.
    threshold: Any = round(rate * 2**16)
    kept: Any = 1 - threshold / 2**16
    if traced:
        threshold, kept = threshold.astype(jnp.uint16), kept.astype(x.dtype)
    shape = x.shape[1:]
    if time_axis and x.ndim == 3:
        shape = (whole_length(shape[0], time_axis), *shape[1:])
    bits = jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint16))(keys_B)
    if time_axis and x.ndim == 3:
        first = jax.lax.axis_index(time_axis) * x.shape[1]
        bits = jax.lax.dynamic_slice_in_dim(bits, first, x.shape[1], axis=1)
    return jnp.where(bits >= threshold, x / kept, 0).astype(x.dtype)


def split_keys(keys_B: Keys, num: int) -> list[Keys]:
    """Split every row's key into ``num`` keys; without keys, return ``num`` times ``None``."""
    if keys_B is None:
        return [None] * num
    return list(jax.vmap(lambda key: jax.random.split(key, num), out_axes=1)(keys_B))


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation with exact variance; a vector of equal channels gets no gradient.

    Dropout sometimes zeroes all channels of a narrow vector. Its normalised value is 0, but the
    derivative, ``1 / sqrt(epsilon)`` for each normalisation, would overflow after a few layers.
    """

    def __init__(self, d_model: int, *, epsilon: float = 1e-12, rngs: nnx.Rngs):
        super().__init__(d_model, epsilon=epsilon, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Return the normalised vectors, of the shape and dtype of x (..., D)."""
        is_constant = jnp.all(x == x[..., :1], axis=-1, keepdims=True)
        return super().__call__(jnp.where(is_constant, jax.lax.stop_gradient(x), x))


def product(x: Array, kernel_DxF: Array) -> Array:
    """Return ``x @ kernel``, (..., F), of vectors (..., D).

    It is computed as the product of two matrices. If x has more axes, then XLA transposes both
    operands of the kernel's gradient on a CPU, which takes longer than the product.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel_DxF).reshape(*x.shape[:-1], kernel_DxF.shape[1])


class Linear(nnx.Linear):
    """A dense layer, computed as ``product`` is."""

    def __call__(self, x: Array) -> Array:
        """Return ``x @ kernel + bias``, (..., F), of vectors (..., D)."""
        y_MxF = super().__call__(x.reshape(-1, x.shape[-1]))
        return y_MxF.reshape(*x.shape[:-1], y_MxF.shape[1])


class PositionEmbedding(nnx.Module):
    """``dropout(LayerNorm(x_l + position_l))`` with ``max_len`` learned position vectors."""

    def __init__(self, max_len: int, d_model: int, *, dropout: float, rngs: nnx.Rngs):
        self.dropout = dropout
        self.position_LxD = nnx.Param(normal(rngs.params(), (max_len, d_model)))
        self.norm = LayerNorm(d_model, rngs=rngs)

    def __call__(
        self, x: Array, position_B: Array | None = None, *, dropout_keys: Keys = None
    ) -> Array:
        """Return the same shape as ``x``: (B, L, D) from position 0 on, or (B, D) at a position."""
        position_LxD = self.position_LxD[slice(x.shape[1]) if position_B is None else position_B]
        return dropout(self.norm(x + position_LxD), self.dropout, dropout_keys)


class FeedForward(TimeSharded):
    """``LayerNorm(dropout(w_2(dropout(gelu(w_1 x)))) + x)``, four times as wide inside.

    ``dropout`` is after the residual branch, ``inner_dropout`` between the two linear maps.
    """

    def __init__(self, d_model: int, *, dropout: float, inner_dropout: float = 0.0, rngs: nnx.Rngs):
        self.dropout, self.inner_dropout = dropout, inner_dropout
        self.w_1 = Linear(d_model, 4 * d_model, kernel_init=normal, rngs=rngs)
        self.w_2 = Linear(4 * d_model, d_model, kernel_init=normal, rngs=rngs)
        self.norm = LayerNorm(d_model, rngs=rngs)

    def __call__(self, x: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the same shape as ``x`` (B, ..., D)."""
        keys = split_keys(dropout_keys, 2)
        inner = nnx.gelu(self.w_1(x), approximate=False)
        inner = dropout(inner, self.inner_dropout, keys[0], self.time_axis)
        return self.norm(dropout(self.w_2(inner), self.dropout, keys[1], self.time_axis) + x)


class GatedLinearUnit(TimeSharded):
    """``LayerNorm(dropout(fc2(value * sigmoid(gate)) + x))`` with ``[value, gate] = fc1(x)``.

    EchoMamba4Rec section 3.4.
    """

    def __init__(self, d_model: int, *, dropout: float, rngs: nnx.Rngs):
        self.dropout = dropout
        self.fc1 = Linear(d_model, 2 * d_model, kernel_init=normal, rngs=rngs)
        self.fc2 = Linear(d_model, d_model, kernel_init=normal, rngs=rngs)
        self.norm = LayerNorm(d_model, rngs=rngs)

    def __call__(self, x: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the same shape as ``x`` (..., D)."""
        value, gate = jnp.split(self.fc1(x), 2, axis=-1)
        y = self.fc2(value * nnx.sigmoid(gate)) + x
        return self.norm(dropout(y, self.dropout, dropout_keys, self.time_axis))


class SpectralFilter(TimeSharded):
    """``LayerNorm(dropout(irfft(rfft(x) * W)) + x)``: a circular convolution over the window.

    The learnable FFT filter of EchoMamba4Rec section 3.2, after FMLP-Rec. Inputs shorter than the
    window, ``max_len``, are padded with zeros, and their results are cut to the input's length.

    A causal filter has the same ``max_len`` taps, ``irfft(W)``, but its convolution is not
    circular, so that no position reads a later one.
    """

    def __init__(
        self, max_len: int, d_model: int, *, causal: bool = False, dropout: float, rngs: nnx.Rngs
    ):
        self.max_len, self.causal, self.dropout = max_len, causal, dropout
        shape = (max_len // 2 + 1, d_model, 2)  # frequencies, channels, (real, imaginary)
        weight = 0.02 * jax.random.normal(rngs.params(), shape)
        self.weight_FxDx2 = nnx.Param(weight, keep_float32=True, window=max_len)
        self.norm = LayerNorm(d_model, rngs=rngs)

    def __call__(self, x_BxLxD: Array, *, dropout_keys: Keys = None) -> Array:
        """Return the filtered inputs, (B, L, D)."""
        axis, x = self.time_axis, x_BxLxD
        if axis:  # the filter needs all positions; each device takes its share of the channels
            x = jax.lax.all_to_all(x, axis, 2, 1, tiled=True)
        length, channels = x.shape[1:]
        response_FxD = self.response()
        if axis:
            first = jax.lax.axis_index(axis) * channels
            response_FxD = jax.lax.dynamic_slice_in_dim(response_FxD, first, channels, axis=1)
        exact, window = x.astype(jnp.promote_types(x.dtype, jnp.float32)), self.max_len
        if self.causal:  # padding with zeros, so that the convolution is not circular
            taps_LxD, window = self.taps(response_FxD), length + self.max_len
            response_FxD = jnp.fft.rfft(taps_LxD, n=window, axis=0)
        spectrum_BxFxD = jnp.fft.rfft(exact, n=window, axis=1, norm="ortho")
        filtered = jnp.fft.irfft(spectrum_BxFxD * response_FxD, n=window, axis=1, norm="ortho")
        filtered = filtered[:, :length].astype(x.dtype)
        if axis:  # the input was padded to a multiple of the number of devices
            rest = length - filtered.shape[1]
            filtered = jnp.pad(filtered, ((0, 0), (0, rest), (0, 0)))
            filtered = jax.lax.all_to_all(filtered, axis, 1, 2, tiled=True)
        return self.norm(dropout(filtered, self.dropout, dropout_keys, axis) + x_BxLxD)

    def start(self, batch: int, dtype: DTypeLike) -> Array:
        """Return the state of a causal filter before the first event: its inputs, (B, L, D)."""
        return jnp.zeros((batch, self.max_len, self.weight_FxDx2.shape[1]), dtype)

    def step(self, state_BxLxD: Array, x_BxD: Array) -> tuple[Array, Array]:
        """Take in one more event; return the state and the filtered input there, (B, D)."""
        state_BxLxD = jnp.concatenate([state_BxLxD[:, 1:], x_BxD[:, None]], axis=1)
        taps_LxD = self.taps(self.response())[::-1]  # the newest input meets the first tap
        exact = state_BxLxD.astype(taps_LxD.dtype)
        filtered = jnp.einsum("bld,ld->bd", exact, taps_LxD, precision="highest")
        return state_BxLxD, self.norm(filtered.astype(x_BxD.dtype) + x_BxD)

    def taps(self, response_FxD: Array) -> Array:
        """Return the weights of the convolution, (L, D); the first one is for the newest input."""
        return jnp.fft.irfft(response_FxD, n=self.max_len, axis=0)

    def response(self) -> Array:
        """Return the complex frequency response, (L // 2 + 1, D)."""
        return jax.lax.complex(self.weight_FxDx2[..., 0], self.weight_FxDx2[..., 1])
