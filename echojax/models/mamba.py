"""One Mamba block: the selective state space model of EchoMamba4Rec, section 3.3.

It can compute all positions, only one of them (a read-out), or one more event from a state.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from echojax.models.layers import Gaps, Linear, normal, product, uniform_within
from echojax.models.positions import (
    TimeSharded,
    at_position,
    mask,
    neighbours,
    whole_length,
    within,
)
from selective_scan import (
    selective_scan,
    selective_scan_prefix_readouts,
    selective_scan_readout,
    selective_scan_step,
)


class MambaState(NamedTuple):
    """The state of a Mamba after some events, in time order."""

    conv_state_BxTxE: Array  # the newest ``d_conv - 1`` inputs of the convolution
    ssm_state_BxExN: Array  # the state of the scan, float32 or float64


class ReverseScanState(NamedTuple):
    """The state of a Mamba that runs from the newest event to the first one, where it is read.

    With S_l the sum of the time steps before position l, the scan's state at the first position is
    ``sum_l exp(A S_l) dt_l B_l u_l``. A new event therefore adds terms and makes none decay. Only
    the terms of the newest ``d_conv - 1`` positions can still change, because their convolution
    reads later events; the other positions are called settled.
    """

    ssm_state_BxExN: Array  # the sum over the settled positions, float32 or float64
    elapsed_BxE: Array  # the sum of the time steps of the settled positions
    conv_state_BxTxE: Array  # the inputs of the convolution at the other positions
    first_BxKxE: Array  # the inputs of the convolution at the first ``d_conv`` positions
    z_BxE: Array  # the gate at the first position
    count_B: Array  # the number of events so far, int32
    gaps_BxT: Array | None  # of the newest ``d_conv - 1`` positions, if gaps are read


class Mamba(TimeSharded):
    """Project in, convolve over time, scan, gate, project out.

    With ``[x, z] = in_proj(input)``, ``x = silu(conv(x))``, ``[dt, B, C] = x_proj(x)`` and ``delta
    = dt_proj(dt)`` the output is ``out_proj(scan(x, delta, A, B, C, D) * silu(z))``. Each channel
    has N = ``d_state`` states; the causal depthwise convolution has ``d_conv`` taps; there are E =
    ``expand`` * D inner channels. With ``time_step_init`` the initial time steps are log-uniform in
    0.001..0.1, as in Mamba; otherwise they are softplus(0) = 0.69, as the authors' global
    re-initialisation leaves them. ``scan`` is one of ``selective_scan.implementations()``.

    With ``time_gaps``, ``w`` times the log gap is added to the ``delta`` of each position. ``w`` is
    learned for each channel and starts at 0: a small time step is multiplied by ``(1 + gap / unit)
    ** w``. (In SS4Rec, arXiv 2502.08132, time steps depend on the interval alone.) Since a state
    decays on its way to a position, the gap is the time since the previous event in the forward
    direction, and the time to the next event in reverse, where that of the newest event is not
    known yet and set to 0.
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
        time_gaps: bool = False,
        rngs: nnx.Rngs,
    ):
        channels = expand * d_model
        rank = math.ceil(d_model / 16)
        dense: dict[str, Any] = {"use_bias": False, "kernel_init": normal, "rngs": rngs}
        self.d_state, self.rank, self.scan = d_state, rank, scan
        self.in_proj = Linear(d_model, 2 * channels, **dense)
        bound = d_conv**-0.5
        self.conv_kernel_KxE = nnx.Param(uniform_within(bound)(rngs.params(), (d_conv, channels)))
        self.conv_bias_E = nnx.Param(uniform_within(bound)(rngs.params(), (channels,)))
        self.x_proj = Linear(channels, rank + 2 * d_state, **dense)
        dt_init = uniform_within(rank**-0.5) if time_step_init else normal
        dt_init = nnx.with_metadata(dt_init, keep_float32=True)
        self.dt_proj = Linear(rank, channels, use_bias=False, kernel_init=dt_init, rngs=rngs)
        dt_bias_E = (
            time_step_bias(rngs.params(), (channels,)) if time_step_init else jnp.zeros(channels)
        )
        self.dt_bias_E = nnx.Param(dt_bias_E, keep_float32=True)
        A_log_ExN = jnp.log(jnp.tile(jnp.arange(1.0, d_state + 1), (channels, 1)))
        self.A_log_ExN = nnx.Param(A_log_ExN, keep_float32=True, no_weight_decay=True)
        self.D_E = nnx.Param(jnp.ones(channels), keep_float32=True)
        self.out_proj = Linear(channels, d_model, **dense)
        self.gap_E = nnx.Param(jnp.zeros(channels), keep_float32=True) if time_gaps else None

    def __call__(
        self,
        x_BxLxD: Array,
        lengths_B: Array | None = None,
        *,
        gaps_BxL: Gaps = None,
        segment_ids_BxL: Array | None = None,
        reverse: bool = False,
    ) -> Array:
        """Return the block's output at every position of right padded inputs, (B, L, D).

        If there are lengths, positions past them are not read, and their output is 0. Gaps are the
        log gap of each position, needed with ``time_gaps``. Segment ids are integers that number
        the histories in a packed row; each of them is computed separately. In reverse, the block
        runs from the last position to the first.
        """
        if lengths_B is not None:
            lengths_B = within(lengths_B, x_BxLxD.shape[1], self.time_axis)
        x_BxLxE, z_BxLxE = jnp.split(self.in_proj(x_BxLxD), 2, axis=-1)
        u_BxLxE = self._convolve(x_BxLxE, lengths_B, reverse, segment_ids_BxL)
        dt_BxLxR, B_BxLxN, C_BxLxN = self._selected(u_BxLxE)
        y_BxLxE = selective_scan(
            u_BxLxE,
            self.delta(dt_BxLxR, self._gaps_before(gaps_BxL, lengths_B, reverse)),
            -jnp.exp(self.A_log_ExN[...]),
            B_BxLxN,
            C_BxLxN,
            self.D_E[...],
            z_BxLxE,
            self.dt_bias_E[...],
            delta_softplus=True,
            lengths=lengths_B,
            segment_ids=segment_ids_BxL,
            reverse=reverse,
            axis_name=self.time_axis,
            implementation=self.scan,
        )
        return self.out_proj(y_BxLxE)

    def readout(
        self,
        x_BxLxD: Array,
        position_B: Array,
        lengths_B: Array | None = None,
        *,
        gaps_BxL: Gaps = None,
        reverse: bool = False,
    ) -> Array:
        """Return the block's output at one position per row, (B, D).

        It equals ``self(x, lengths, reverse=reverse)[b, position[b]]``, but everything after the
        state (C, D, gate, output projection) is computed at that position only.
        """
        length, axis = x_BxLxD.shape[1], self.time_axis
        channels = self.out_proj.kernel[...].shape[0]
        in_kernel = self.in_proj.kernel[...]
        z_BxE = at_position(x_BxLxD, position_B, axis) @ in_kernel[:, channels:]
        x_BxLxE = product(x_BxLxD, in_kernel[:, :channels])
        if not reverse:
            start_B, stop_B = jnp.zeros_like(position_B), position_B + 1
        elif lengths_B is None:
            start_B, stop_B = position_B, jnp.full_like(position_B, whole_length(length, axis))
        else:
            start_B, stop_B = position_B, lengths_B
        if lengths_B is not None:
            lengths_B = within(lengths_B, length, axis)
        u_BxLxE = self._convolve(x_BxLxE, lengths_B, reverse)
        u_BxE = at_position(u_BxLxE, position_B, axis)
        dt_BxLxR, B_BxLxN = self._scan_inputs(u_BxLxE)
        y_BxE = selective_scan_readout(
            u_BxLxE,
            self.delta(dt_BxLxR, self._gaps_before(gaps_BxL, lengths_B, reverse)),
            -jnp.exp(self.A_log_ExN[...]),
            B_BxLxN,
            self._readout_weights(u_BxE),
            delta_bias=self.dt_bias_E[...],
            delta_softplus=True,
            start=within(start_B, length, axis),
            stop=within(stop_B, length, axis),
            reverse=reverse,
            axis_name=axis,
            implementation=self.scan,
        )
        return self.out_proj((y_BxE + self.D_E[...] * u_BxE) * nnx.silu(z_BxE))

    def readout_of_prefixes(
        self, x_BxLxD: Array, lengths_B: Array, *, gaps_BxL: Gaps = None
    ) -> Array:
        """Return the block's reverse output at the first item, for every prefix, (B, L, D).

        The result at position m is ``self(x[:, :m + 1], reverse=True)[:, 0]``, for all m in one
        pass. The state of the reverse scan at the first item is a sum over the items
        (``ReverseScanState``). One more item adds a term, and changes those of the ``d_conv - 1``
        items before it, whose convolution reads the new item. All other terms are settled, and
        summed once. A gap is known one item later; with gaps, the convolution therefore has two
        taps or more.
        """
        length, axis = x_BxLxD.shape[1], self.time_axis
        taps, channels = self.conv_kernel_KxE.shape
        in_kernel = self.in_proj.kernel[...]
        first_B = jnp.zeros_like(lengths_B)
        z_BxE = at_position(x_BxLxD, first_B, axis) @ in_kernel[:, channels:]
        x_BxLxE = product(x_BxLxD, in_kernel[:, :channels])

        # Version k of a position belongs to the prefix that ends k items later; the last version,
        # k = d_conv - 1, is settled.
        later = jnp.concatenate([x_BxLxE, neighbours(x_BxLxE, taps - 1, axis, reverse=True)], 1)
        to_next_BxL = self._gaps_before(gaps_BxL, None, True)
        x_BxLxE, u, dt, B = self.conv_bias_E[...], [], [], []
        for k in range(taps):
            x_BxLxE = x_BxLxE + later[:, k : k + length] * self.conv_kernel_KxE[taps - 1 - k]
            u.append(nnx.silu(x_BxLxE))
            dt_BxLxR, B_BxLxN = self._scan_inputs(u[-1])
            # The newest item of a prefix has no next one.
            dt.append(self.delta(dt_BxLxR, to_next_BxL if k else None))
            B.append(B_BxLxN)

        # What is read at the first item (C, D) changes until the window of its convolution is full.
        place_L = jnp.arange(length) + (jax.lax.axis_index(axis) * length if axis else 0)
        version_LxK = nnx.one_hot(jnp.minimum(place_L, taps - 1), taps, dtype=x_BxLxD.dtype)

        def of_prefixes(x_KxBxF: Array) -> Array:
            return jnp.einsum("lk,kbf->blf", version_LxK, x_KxBxF, precision="highest")

        first_KxBxE = jnp.stack([at_position(x, first_B, axis) for x in u])
        y_BxLxE = selective_scan_prefix_readouts(
            jnp.stack(u),
            jnp.stack(dt),
            -jnp.exp(self.A_log_ExN[...]),
            jnp.stack(B),
            of_prefixes(self._readout_weights(first_KxBxE)),
            delta_bias=self.dt_bias_E[...],
            delta_softplus=True,
            lengths=within(lengths_B, length, axis),
            axis_name=axis,
        )
        y_BxLxE += of_prefixes(self.D_E[...] * first_KxBxE)
        return self.out_proj(y_BxLxE * nnx.silu(z_BxE)[:, None])

    def delta(self, dt: Array, gaps: Array | None) -> Array:
        """Return time steps before bias and softplus, (..., E), from ``x_proj``'s dt and gaps."""
        delta = self.dt_proj(dt)
        if gaps is None or self.gap_E is None:
            return delta
        return delta + gaps[..., None] * self.gap_E[...]

    def _gaps_before(self, gaps_BxL: Gaps, lengths_B: Array | None, reverse: bool) -> Array | None:
        """Return the gap before each position of this shard, in the direction of the scan."""
        if gaps_BxL is None or not reverse:
            return gaps_BxL
        if lengths_B is not None:
            gaps_BxL = jnp.where(mask(lengths_B, gaps_BxL.shape[1]), gaps_BxL, 0)
        after_Bx1x1 = neighbours(gaps_BxL[..., None], 1, self.time_axis, reverse=True)
        return jnp.concatenate([gaps_BxL[:, 1:], after_Bx1x1[..., 0]], axis=1)

    def _convolve(
        self,
        x_BxLxE: Array,
        lengths_B: Array | None,
        reverse: bool,
        segment_ids_BxL: Array | None = None,
    ) -> Array:
        """Return silu of the depthwise convolution over the positions visited so far."""
        length = x_BxLxE.shape[1]
        if reverse and lengths_B is not None:  # padding must not be read
            x_BxLxE = jnp.where(mask(lengths_B, length)[..., None], x_BxLxE, 0)
        taps = self.conv_kernel_KxE[...].shape[0]

        def padded(x: Array) -> Array:
            more = neighbours(x, taps - 1, self.time_axis, reverse=reverse)
            return jnp.concatenate([x, more] if reverse else [more, x], axis=1)

        # The last tap of the kernel meets the newest position.
        def met(x: Array, tap: int) -> Array:
            first = taps - 1 - tap if reverse else tap
            return x[:, first : first + length]

        # A tap reads its position only if no other segment lies between: as for the scan, an id
        # that comes back is a new segment.
        inside: list[Array] = []
        if segment_ids_BxL is not None:
            own_BxLx1 = segment_ids_BxL[..., None]
            ids_BxMx1, same_BxLx1 = padded(own_BxLx1), jnp.ones_like(own_BxLx1, bool)
            for tap in reversed(range(taps)):
                same_BxLx1 &= met(ids_BxMx1, tap) == own_BxLx1
                inside.insert(0, same_BxLx1)
        read, out = padded(x_BxLxE), self.conv_bias_E[...]
        for tap in range(taps):
            x = met(read, tap)
            x = jnp.where(inside[tap], x, 0) if inside else x
            out = out + x * self.conv_kernel_KxE[tap]
        return nnx.silu(out)

    def start(self, batch: int, dtype: DTypeLike) -> MambaState:
        """Return the state before the first event; ``dtype`` is the dtype of the block's inputs."""
        taps, channels = self.conv_kernel_KxE[...].shape
        conv_state_BxTxE = jnp.zeros((batch, taps - 1, channels), dtype)
        return MambaState(conv_state_BxTxE, self._initial_ssm_state(batch, dtype))

    def step(
        self, state: MambaState, x_BxD: Array, gap_B: Array | None = None
    ) -> tuple[MambaState, Array]:
        """Take in one event; return the state and the output of ``self(x)`` at it, (B, D)."""
        x_BxE, z_BxE = jnp.split(self.in_proj(x_BxD), 2, axis=-1)
        window_BxKxE = jnp.concatenate([state.conv_state_BxTxE, x_BxE[:, None]], axis=1)
        u_BxE = self._convolved(window_BxKxE)
        dt_BxR, B_BxN, C_BxN = self._selected(u_BxE)
        y_BxE, ssm_state_BxExN = selective_scan_step(
            state.ssm_state_BxExN,
            u_BxE,
            self.delta(dt_BxR, gap_B),
            -jnp.exp(self.A_log_ExN[...]),
            B_BxN,
            C_BxN,
            self.D_E[...],
            z_BxE,
            self.dt_bias_E[...],
            delta_softplus=True,
        )
        return MambaState(window_BxKxE[:, 1:], ssm_state_BxExN), self.out_proj(y_BxE)

    def start_reverse(self, batch: int, dtype: DTypeLike) -> ReverseScanState:
        """Return the state of a reverse scan before the first event; see ``start``."""
        taps, channels = self.conv_kernel_KxE[...].shape
        ssm_state_BxExN = self._initial_ssm_state(batch, dtype)
        return ReverseScanState(
            ssm_state_BxExN,
            ssm_state_BxExN[..., 0],
            jnp.zeros((batch, taps - 1, channels), dtype),
            jnp.zeros((batch, taps, channels), dtype),
            jnp.zeros((batch, channels), dtype),
            jnp.zeros(batch, jnp.int32),
            None if self.gap_E is None else jnp.zeros((batch, taps - 1), jnp.float32),
        )

    def step_reverse(
        self, state: ReverseScanState, x_BxD: Array, gap_B: Array | None = None
    ) -> tuple[ReverseScanState, Array]:
        """Take in one event; return the state and the output at the first item, (B, D).

        The output is that of ``self(x_BxLxD, reverse=True)`` at position 0.
        """
        x_BxE, z_BxE = jnp.split(self.in_proj(x_BxD), 2, axis=-1)
        open_BxKxE = jnp.concatenate([state.conv_state_BxTxE, x_BxE[:, None]], axis=1)
        taps = open_BxKxE.shape[1]
        padded_Bx2KxE = jnp.pad(open_BxKxE, ((0, 0), (0, taps - 1), (0, 0)))
        # A reversed convolution has its taps in reverse order: the last one is for the position.
        u_BxKxE = jnp.stack(
            [self._convolved(padded_Bx2KxE[:, i : i + taps][:, ::-1]) for i in range(taps)], axis=1
        )
        dt_BxKxR, B_BxKxN = self._scan_inputs(u_BxKxE)
        gaps_BxK = gaps_BxT = state.gaps_BxT
        if gap_B is not None and gaps_BxT is not None:
            gaps_BxT = jnp.concatenate([gaps_BxT, gap_B[:, None]], axis=1)[:, 1:]
            gaps_BxK = jnp.pad(gaps_BxT, ((0, 0), (0, 1)))
        dt_BxKxE = nnx.softplus(self.delta(dt_BxKxR, gaps_BxK) + self.dt_bias_E[...])
        real_BxK = jnp.arange(taps) >= taps - 1 - state.count_B[:, None]
        dt_BxKxE = jnp.where(real_BxK[..., None], dt_BxKxE, 0).astype(state.ssm_state_BxExN.dtype)
        S_BxKxE = state.elapsed_BxE[:, None] + jnp.cumsum(dt_BxKxE, axis=1) - dt_BxKxE
        decay_BxKxExN = jnp.exp(S_BxKxE[..., None] * -jnp.exp(self.A_log_ExN[...]))
        term_BxKxExN = decay_BxKxExN * (dt_BxKxE * u_BxKxE)[..., None] * B_BxKxN[:, :, None]
        fresh_BxK = jnp.arange(taps) == state.count_B[:, None]
        first_BxKxE = jnp.where(fresh_BxK[..., None], x_BxE[:, None], state.first_BxKxE)
        z_BxE = jnp.where(state.count_B[:, None] == 0, z_BxE, state.z_BxE)
        ssm_state_BxExN = state.ssm_state_BxExN + term_BxKxExN.sum(1)
        state = ReverseScanState(
            state.ssm_state_BxExN + term_BxKxExN[:, 0],
            state.elapsed_BxE + dt_BxKxE[:, 0],
            open_BxKxE[:, 1:],
            first_BxKxE,
            z_BxE,
            state.count_B + 1,
            gaps_BxT,
        )
        u_BxE = self._convolved(first_BxKxE[:, ::-1])
        C_BxN = self._readout_weights(u_BxE)
        y_BxE = jnp.einsum("ben,bn->be", ssm_state_BxExN, C_BxN, precision="highest")
        y_BxE = y_BxE.astype(u_BxE.dtype) + self.D_E[...] * u_BxE
        return state, self.out_proj(y_BxE * nnx.silu(z_BxE))

    def _initial_ssm_state(self, batch: int, dtype: DTypeLike) -> Array:
        shape = (batch, *self.A_log_ExN[...].shape)
        return jnp.zeros(shape, jnp.promote_types(dtype, jnp.float32))

    def _convolved(self, window_BxKxE: Array) -> Array:
        """Return the scan's input, (B, E): silu of the convolution of the newest inputs."""
        return nnx.silu(
            self.conv_bias_E[...] + jnp.sum(window_BxKxE * self.conv_kernel_KxE[...], 1)
        )

    def _selected(self, u: Array) -> tuple[Array, Array, Array]:
        """Return dt before ``dt_proj``, B and C, from the scan's inputs (..., E)."""
        dt, B, C = jnp.split(self.x_proj(u), [self.rank, self.rank + self.d_state], axis=-1)
        return dt, B, C

    def _scan_inputs(self, u: Array) -> tuple[Array, Array]:
        """Return dt before ``dt_proj`` and B, as ``_selected`` does."""
        entering = product(u, self.x_proj.kernel[...][:, : self.rank + self.d_state])
        dt, B = jnp.split(entering, [self.rank], axis=-1)
        return dt, B

    def _readout_weights(self, u: Array) -> Array:
        """Return C, as ``_selected`` does."""
        return u @ self.x_proj.kernel[...][:, self.rank + self.d_state :]


def time_step_bias(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw biases whose softplus is log-uniform in [0.001, 0.1], as in Mamba."""
    log_dt = jax.random.uniform(key, shape, jnp.float32, jnp.log(1e-3), jnp.log(0.1))
    dt = jnp.exp(log_dt)
    return dt + jnp.log(-jnp.expm1(-dt))  # the inverse of softplus
