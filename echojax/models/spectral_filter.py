"""The learnable FFT filter (EchoMamba4Rec section 3.2, after FMLP-Rec)."""

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.dropout import dropout
from echojax.models.layer_norm import layer_norm
from echojax.models.sequence_shards import NO_AXIS, channels_of_all, stretch_of_all


class SpectralFilter(nnx.Module):
    """``LayerNorm(dropout(irfft(rfft(x) * W)) + x)``, a circular convolution as long as the window.

    Args:
        max_len: the window; shorter inputs are filled up with zeros, and their results cut.
        d_model: D.
        dropout: rate.
    """

    def __init__(self, max_len: int, d_model: int, *, dropout: float, rngs: nnx.Rngs):
        self.max_len, self.dropout, self.time_axis = max_len, dropout, NO_AXIS
        shape = (max_len // 2 + 1, d_model, 2)  # frequencies, channels, (real, imaginary)
        self.weight_FxDx2 = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        self.norm = layer_norm(d_model, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array, *, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Return the filtered inputs, (B, L, D)."""
        axis = self.time_axis
        x = channels_of_all(x_BxLxD, axis) if axis else x_BxLxD  # the filter needs all positions
        length, channels = x.shape[1:]
        response_FxD = self.response()
        if axis:
            first = jax.lax.axis_index(axis) * channels
            response_FxD = jax.lax.dynamic_slice_in_dim(response_FxD, first, channels, axis=1)
        exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        spectrum_BxFxD = jnp.fft.rfft(exact, n=self.max_len, axis=1, norm="ortho")
        filtered = jnp.fft.irfft(
            spectrum_BxFxD * response_FxD, n=self.max_len, axis=1, norm="ortho"
        )[:, :length].astype(x.dtype)
        if axis:  # a window that does not divide by the devices was filled up for them
            rest = length - filtered.shape[1]
            filtered = stretch_of_all(jnp.pad(filtered, ((0, 0), (0, rest), (0, 0))), axis)
        return self.norm(dropout(filtered, self.dropout, dropout_keys, axis) + x_BxLxD)

    def response(self) -> jax.Array:
        """Return the complex frequency response, (L // 2 + 1, D)."""
        return jax.lax.complex(self.weight_FxDx2[..., 0], self.weight_FxDx2[..., 1])
