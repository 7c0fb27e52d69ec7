"""Layer normalisation with the settings of the PyTorch originals."""

from flax import nnx


def layer_norm(width: int, *, epsilon: float = 1e-12, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Return a layer normalisation over ``width`` channels, exact variance, scale and bias."""
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
