"""A Mamba that runs from the newest event to the first and is read there, in constant time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.mamba import Mamba
from echojax.models.mamba_state import convolved, no_h, selected


class FirstItemState(NamedTuple):
    """Of a Mamba that runs from the newest event to the first, and is read there.

    A new event is where it starts: with S_l the sum of the time steps before position l, the state
    at the first position is ``sum_l exp(A S_l) t_l B_l u_l``, so one event adds terms and decays
    none. Of the terms only those of the newest ``d_conv - 1`` positions still change: their
    convolution reads later events.

    Attributes:
        h_BxExN: the sum over the positions that are settled, float32 or float64.
        elapsed_BxE: the sum of their time steps.
        tail_BxTxE: the convolution's inputs at the others.
        first_BxKxE: the convolution's inputs at the first ``d_conv`` positions.
        z_BxE: the gate at the first position.
        count_B: events so far, int32.
    """

    h_BxExN: jax.Array
    elapsed_BxE: jax.Array
    tail_BxTxE: jax.Array
    first_BxKxE: jax.Array
    z_BxE: jax.Array
    count_B: jax.Array


def start(mamba: Mamba, batch: int, dtype: jnp.dtype) -> FirstItemState:
    """Return the state before the first event; ``dtype`` is that of the block's inputs."""
    taps, channels = mamba.conv_kernel_KxE[...].shape
    h_BxExN = no_h(mamba, batch, dtype)
    return FirstItemState(
        h_BxExN,
        h_BxExN[..., 0],
        jnp.zeros((batch, taps - 1, channels), dtype),
        jnp.zeros((batch, taps, channels), dtype),
        jnp.zeros((batch, channels), dtype),
        jnp.zeros(batch, jnp.int32),
    )


def step(mamba: Mamba, state: FirstItemState, x_BxD: jax.Array) -> tuple[FirstItemState, jax.Array]:
    """Take in one event; return the output at the first item, (B, D).

    It is that of ``mamba(x_BxLxD, reverse=True)`` at position 0.
    """
    x_BxE, z_BxE = jnp.split(mamba.in_proj(x_BxD), 2, axis=-1)
    open_BxKxE = jnp.concatenate([state.tail_BxTxE, x_BxE[:, None]], axis=1)
    taps = open_BxKxE.shape[1]
    behind_Bx2KxE = jnp.pad(open_BxKxE, ((0, 0), (0, taps - 1), (0, 0)))
    # The taps of a reversed convolution stand the other way round: the last meets the position.
    u_BxKxE = jnp.stack(
        [convolved(mamba, behind_Bx2KxE[:, i : i + taps][:, ::-1]) for i in range(taps)], axis=1
    )
    dt_BxKxR, B_BxKxN, _ = selected(mamba, u_BxKxE)
    t_BxKxE = nnx.softplus(mamba.dt_proj(dt_BxKxR) + mamba.dt_bias_E[...])
    real_BxK = jnp.arange(taps) >= taps - 1 - state.count_B[:, None]
    t_BxKxE = jnp.where(real_BxK[..., None], t_BxKxE, 0).astype(state.h_BxExN.dtype)
    S_BxKxE = state.elapsed_BxE[:, None] + jnp.cumsum(t_BxKxE, axis=1) - t_BxKxE
    decay_BxKxExN = jnp.exp(S_BxKxE[..., None] * -jnp.exp(mamba.A_log_ExN[...]))
    term_BxKxExN = decay_BxKxExN * (t_BxKxE * u_BxKxE)[..., None] * B_BxKxN[:, :, None]
    fresh_BxK = jnp.arange(taps) == state.count_B[:, None]
    first_BxKxE = jnp.where(fresh_BxK[..., None], x_BxE[:, None], state.first_BxKxE)
    z_BxE = jnp.where(state.count_B[:, None] == 0, z_BxE, state.z_BxE)
    h_BxExN = state.h_BxExN + term_BxKxExN.sum(1)
    state = FirstItemState(
        state.h_BxExN + term_BxKxExN[:, 0],
        state.elapsed_BxE + t_BxKxE[:, 0],
        open_BxKxE[:, 1:],
        first_BxKxE,
        z_BxE,
        state.count_B + 1,
    )
    u_BxE = convolved(mamba, first_BxKxE[:, ::-1])
    y_BxE = jnp.einsum("ben,bn->be", h_BxExN, selected(mamba, u_BxE)[2], precision="highest")
    y_BxE = y_BxE.astype(u_BxE.dtype) + mamba.D_E[...] * u_BxE
    return state, mamba.out_proj(y_BxE * nnx.silu(z_BxE))
