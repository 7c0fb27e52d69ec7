"""What a Mamba must remember to take one more event in constant time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.mamba import Mamba
from selective_scan import selective_scan_step


class MambaState(NamedTuple):
    """Of the events so far, in time order.

    Attributes:
        tail_BxTxE: what the convolution reads again, the newest ``d_conv - 1`` inputs.
        h_BxExN: the scan's state, float32 or float64.
    """

    tail_BxTxE: jax.Array
    h_BxExN: jax.Array


def start(mamba: Mamba, batch: int, dtype: jnp.dtype) -> MambaState:
    """Return the state before the first event; ``dtype`` is that of the block's inputs."""
    taps, channels = mamba.conv_kernel_KxE[...].shape
    return MambaState(jnp.zeros((batch, taps - 1, channels), dtype), no_h(mamba, batch, dtype))


def step(mamba: Mamba, state: MambaState, x_BxD: jax.Array) -> tuple[MambaState, jax.Array]:
    """Take in one event; return its output, (B, D): that of ``mamba(x_BxLxD)`` at its position."""
    x_BxE, z_BxE = jnp.split(mamba.in_proj(x_BxD), 2, axis=-1)
    window_BxKxE = jnp.concatenate([state.tail_BxTxE, x_BxE[:, None]], axis=1)
    u_BxE = convolved(mamba, window_BxKxE)
    dt_BxR, B_BxN, C_BxN = selected(mamba, u_BxE)
    y_BxE, h_BxExN = selective_scan_step(
        state.h_BxExN, u_BxE, mamba.dt_proj(dt_BxR), -jnp.exp(mamba.A_log_ExN[...]), B_BxN, C_BxN,
        mamba.D_E[...], z_BxE, mamba.dt_bias_E[...], delta_softplus=True,
    )  # fmt: skip
    return MambaState(window_BxKxE[:, 1:], h_BxExN), mamba.out_proj(y_BxE)


def no_h(mamba: Mamba, batch: int, dtype: jnp.dtype) -> jax.Array:
    """Return the scan's state before the first event, (B, E, N)."""
    shape = mamba.A_log_ExN[...].shape
    return jnp.zeros((batch, *shape), jnp.promote_types(dtype, jnp.float32))


def convolved(mamba: Mamba, window_BxKxE: jax.Array) -> jax.Array:
    """Return what the scan reads, (B, E): silu of the convolution of its newest inputs."""
    return nnx.silu(mamba.conv_bias_E[...] + jnp.sum(window_BxKxE * mamba.conv_kernel_KxE[...], 1))


def selected(mamba: Mamba, u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return time steps before ``dt_proj``, B and C of the scan's inputs (..., E)."""
    dt, B, C = jnp.split(mamba.x_proj(u), [mamba.rank, mamba.rank + mamba.d_state], axis=-1)
    return dt, B, C
