"""The learnable FFT filter (EchoMamba4Rec section 3.2, after FMLP-Rec)."""

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.dropout import dropout
from echojax.models.layer_norm import layer_norm


class SpectralFilter(nnx.Module):
    """``LayerNorm(dropout(irfft(rfft(x) * W)) + x)``, a circular convolution as long as the window.

    Args:
        max_len: the window; shorter inputs are filled up with zeros, and their results cut.
        width: D.
        dropout: rate.
    """

    def __init__(self, max_len: int, width: int, *, dropout: float, rngs: nnx.Rngs):
        self.max_len, self.dropout = max_len, dropout
        shape = (max_len // 2 + 1, width, 2)  # frequencies, channels, (real, imaginary)
        self.weight_FxDx2 = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        self.norm = layer_norm(width, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array, *, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Return the filtered inputs, (B, L, D)."""
        exact = x_BxLxD.astype(jnp.promote_types(x_BxLxD.dtype, jnp.float32))
        spectrum_BxFxD = jnp.fft.rfft(exact, n=self.max_len, axis=1, norm="ortho")
        filtered = jnp.fft.irfft(
            spectrum_BxFxD * self.response(), n=self.max_len, axis=1, norm="ortho"
        )[:, : x_BxLxD.shape[1]].astype(x_BxLxD.dtype)
        return self.norm(dropout(filtered, self.dropout, dropout_keys) + x_BxLxD)

    def response(self) -> jax.Array:
        """Return the complex frequency response, (L // 2 + 1, D)."""
        return jax.lax.complex(self.weight_FxDx2[..., 0], self.weight_FxDx2[..., 1])
