"""Initial values, as the authors' code (PyTorch) draws them."""

import jax
import jax.numpy as jnp
from flax import nnx

# Every linear layer and the item table: N(0, 0.02), the authors' `_init_weights`.
normal = nnx.initializers.normal(0.02)


def uniform_within(bound: float) -> nnx.Initializer:
    """Return an initializer that draws uniformly from (-bound, bound)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def time_step_bias(
    key: jax.Array, shape: tuple[int, ...], smallest: float = 1e-3, largest: float = 0.1
) -> jax.Array:
    """Draw biases whose softplus is log-uniform in [smallest, largest] (Mamba's own choice)."""
    log_t = jax.random.uniform(key, shape, jnp.float32, jnp.log(smallest), jnp.log(largest))
    t = jnp.exp(log_t)
    return t + jnp.log(-jnp.expm1(-t))  # the inverse of softplus
