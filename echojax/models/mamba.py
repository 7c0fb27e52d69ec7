"""One Mamba block: the selective state space model of EchoMamba4Rec's section 3.3."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from echojax.models.initializers import normal, time_step_bias, uniform_within
from echojax.models.positions import mask
from echojax.models.sequence_shards import NO_AXIS, at_item, neighbours, whole_length, within
from selective_scan import selective_scan, selective_scan_readout


class Mamba(nnx.Module):
    """Project in, convolve over time, scan, gate, project out.

    With ``[x, z] = in_proj(input)``, ``x = silu(conv(x))``, ``[dt, B, C] = x_proj(x)`` and
    ``delta = dt_proj(dt)`` the output is ``out_proj(scan(x, delta, A, B, C, D) * silu(z))``.

    Args:
        d_model: D, the model dimension.
        d_state: N, states a channel.
        d_conv: taps of the causal depthwise convolution.
        expand: E = expand * D inner channels.
        time_step_init: start the time steps log-uniform in 0.001..0.1, as Mamba does; otherwise
            at softplus(0) = 0.69, as the authors' global re-initialisation leaves them.
        scan: which implementation of the selective scan (``selective_scan.implementations()``).
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int,
        d_conv: int,
        expand: int,
        time_step_init: bool,
        scan: str = "auto",
        rngs: nnx.Rngs,
    ):
        channels = expand * d_model
        rank = math.ceil(d_model / 16)
        dense: dict[str, Any] = {"use_bias": False, "kernel_init": normal, "rngs": rngs}
        self.d_state, self.rank, self.scan = d_state, rank, scan
        self.time_axis = NO_AXIS
        self.in_proj = nnx.Linear(d_model, 2 * channels, **dense)
        bound = d_conv**-0.5
        self.conv_kernel_KxE = nnx.Param(uniform_within(bound)(rngs.params(), (d_conv, channels)))
        self.conv_bias_E = nnx.Param(uniform_within(bound)(rngs.params(), (channels,)))
        self.x_proj = nnx.Linear(channels, rank + 2 * d_state, **dense)
        dt_init = uniform_within(rank**-0.5) if time_step_init else normal
        self.dt_proj = nnx.Linear(rank, channels, use_bias=False, kernel_init=dt_init, rngs=rngs)
        self.dt_bias_E = nnx.Param(
            time_step_bias(rngs.params(), (channels,)) if time_step_init else jnp.zeros(channels)
        )
        self.A_log_ExN = nnx.Param(jnp.log(jnp.tile(jnp.arange(1.0, d_state + 1), (channels, 1))))
        self.D_E = nnx.Param(jnp.ones(channels))
        self.out_proj = nnx.Linear(channels, d_model, **dense)

    def __call__(
        self, x_BxLxD: jax.Array, lengths_B: jax.Array | None = None, *, reverse: bool = False
    ) -> jax.Array:
        """Return the block's output at every position, (B, L, D).

        Args:
            x_BxLxD: input, right padded.
            lengths_B: where given, positions past the length are neither read nor written (0).
            reverse: run from the last position to the first.
        """
        if lengths_B is not None:
            lengths_B = within(lengths_B, x_BxLxD.shape[1], self.time_axis)
        x_BxLxE, z_BxLxE = jnp.split(self.in_proj(x_BxLxD), 2, axis=-1)
        u_BxLxE = self._convolve(x_BxLxE, lengths_B, reverse)
        dt_BxLxR, B_BxLxN, C_BxLxN = self._select(u_BxLxE)
        y_BxLxE = selective_scan(
            u_BxLxE,
            self.dt_proj(dt_BxLxR),
            -jnp.exp(self.A_log_ExN[...]),
            B_BxLxN,
            C_BxLxN,
            self.D_E[...],
            z_BxLxE,
            self.dt_bias_E[...],
            delta_softplus=True,
            lengths_B=lengths_B,
            reverse=reverse,
            time_axis=self.time_axis,
            implementation=self.scan,
        )
        return self.out_proj(y_BxLxE)

    def readout(
        self,
        x_BxLxD: jax.Array,
        position_B: jax.Array,
        lengths_B: jax.Array | None = None,
        *,
        reverse: bool = False,
    ) -> jax.Array:
        """Return the block's output at one position a row, (B, D).

        Equal to ``self(x, lengths, reverse=reverse)[b, position[b]]``, but everything behind the
        state (C, D, gate, output projection) is computed for that position alone.
        """
        d_model, length, axis = x_BxLxD.shape[-1], x_BxLxD.shape[1], self.time_axis
        channels = self.out_proj.kernel[...].shape[0]
        in_kernel = self.in_proj.kernel[...]
        z_BxE = at_item(x_BxLxD, position_B, axis) @ in_kernel[:, channels:]
        # Written as one matrix product: (B, L) are contiguous rows.
        x_BxLxE = (x_BxLxD.reshape(-1, d_model) @ in_kernel[:, :channels]).reshape(
            -1, length, channels
        )
        start_B, stop_B = _visited(position_B, lengths_B, whole_length(length, axis), reverse)
        if lengths_B is not None:
            lengths_B = within(lengths_B, length, axis)
        u_BxLxE = self._convolve(x_BxLxE, lengths_B, reverse)
        u_BxE = at_item(u_BxLxE, position_B, axis)
        inputs = self.rank + self.d_state
        x_kernel = self.x_proj.kernel[...]
        dt_BxLxR, B_BxLxN = jnp.split(u_BxLxE @ x_kernel[:, :inputs], [self.rank], axis=-1)
        y_BxE = selective_scan_readout(
            u_BxLxE,
            self.dt_proj(dt_BxLxR),
            -jnp.exp(self.A_log_ExN[...]),
            B_BxLxN,
            u_BxE @ x_kernel[:, inputs:],
            delta_bias_E=self.dt_bias_E[...],
            delta_softplus=True,
            start_B=within(start_B, length, axis),
            stop_B=within(stop_B, length, axis),
            reverse=reverse,
            time_axis=axis,
            implementation=self.scan,
        )
        return self.out_proj((y_BxE + self.D_E[...] * u_BxE) * nnx.silu(z_BxE))

    def _convolve(
        self, x_BxLxE: jax.Array, lengths_B: jax.Array | None, reverse: bool
    ) -> jax.Array:
        """Return silu of the depthwise convolution over the positions visited so far."""
        length = x_BxLxE.shape[1]
        if reverse and lengths_B is not None:  # what lies behind the end is not read
            x_BxLxE = jnp.where(mask(lengths_B, length)[..., None], x_BxLxE, 0)
        taps = self.conv_kernel_KxE[...].shape[0]
        more = neighbours(x_BxLxE, taps - 1, self.time_axis, reverse=reverse)
        padded = jnp.concatenate([x_BxLxE, more] if reverse else [more, x_BxLxE], axis=1)
        out = self.conv_bias_E[...]
        for tap in range(taps):  # the last tap of the kernel meets the newest position
            first = taps - 1 - tap if reverse else tap
            out = out + padded[:, first : first + length] * self.conv_kernel_KxE[tap]
        return nnx.silu(out)

    def _select(self, u_BxLxE: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        splits = [self.rank, self.rank + self.d_state]
        dt, B, C = jnp.split(self.x_proj(u_BxLxE), splits, axis=-1)
        return dt, B, C


def _visited(
    position_B: jax.Array, lengths_B: jax.Array | None, length: int, reverse: bool
) -> tuple[jax.Array, jax.Array]:
    """Return start and stop of what a scan has visited when it arrives at ``position_B``."""
    if not reverse:
        return jnp.zeros_like(position_B), position_B + 1
    return position_B, jnp.full_like(position_B, length) if lengths_B is None else lengths_B
