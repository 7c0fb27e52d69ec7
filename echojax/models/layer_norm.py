"""Layer normalisation with the settings of the PyTorch originals."""

import jax
import jax.numpy as jnp
from flax import nnx


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation that passes no gradient on to a vector whose channels are all equal.

    Dropout zeroes all of a narrow vector now and then. Its normalised value is 0 whatever happens,
    but the derivative there, ``1 / sqrt(epsilon)`` a normalisation, would overflow behind a few.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the normalised vectors, of the shape and dtype of x (..., D)."""
        is_constant = jnp.all(x == x[..., :1], axis=-1, keepdims=True)
        return super().__call__(jnp.where(is_constant, jax.lax.stop_gradient(x), x))


def layer_norm(d_model: int, *, epsilon: float = 1e-12, rngs: nnx.Rngs) -> LayerNorm:
    """Return a layer normalisation over ``d_model`` channels, exact variance, scale and bias."""
    return LayerNorm(d_model, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
