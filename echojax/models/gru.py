"""A gated recurrent unit (PyTorch's equations) with a hand-written gradient."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from echojax.models.layers import uniform_within


class GRU(nnx.Module):
    """One recurrent layer from the first position to the last, starting at zero.

    With ``[xr, xz, xn] = x W_x + b_x`` and ``[hr, hz, hn] = h W_h + b_h`` the next state, of H
    numbers, is ``(1 - z) n + z h``, where ``r = sigmoid(xr + hr)``, ``z = sigmoid(xz + hz)`` and
    ``n = tanh(xn + r hn)``.
    """

    def __init__(self, inputs: int, hidden_size: int, *, use_bias: bool = True, rngs: nnx.Rngs):
        weights = nnx.initializers.xavier_uniform()
        self.x_kernel_Dx3H = nnx.Param(
            weights(rngs.params(), (inputs, 3 * hidden_size)), keep_float32=True
        )
        self.h_kernel_Hx3H = nnx.Param(
            weights(rngs.params(), (hidden_size, 3 * hidden_size)), keep_float32=True
        )
        bias = uniform_within(hidden_size**-0.5)
        shape = (2, 3 * hidden_size)  # b_x and b_h
        self.bias_2x3H = (
            nnx.Param(bias(rngs.params(), shape), keep_float32=True) if use_bias else None
        )

    def step(self, h_BxH: Array, x_BxD: Array) -> Array:
        """Return the state after one more position, (B, H)."""
        x_Bx3H, bias_3H = self._with_biases(x_BxD @ self.x_kernel_Dx3H[...])
        return _cell(h_BxH, x_Bx3H, self.h_kernel_Hx3H[...], bias_3H)[0]

    def __call__(self, x_BxLxD: Array) -> Array:
        """Return the state after each position, (B, L, H)."""
        batch, length, inputs = x_BxLxD.shape
        # This is one product with time as the first axis; otherwise XLA would keep the rows of the
        # batch together, and every step of the loop would gather its position from all of them.
        x_MxD = jnp.swapaxes(x_BxLxD, 0, 1).reshape(length * batch, inputs)
        kernel_Dx3H = self.x_kernel_Dx3H[...]
        x_LxBx3H = (x_MxD @ kernel_Dx3H).reshape(length, batch, kernel_Dx3H.shape[1])
        x_LxBx3H, bias_3H = self._with_biases(x_LxBx3H)
        h_LxBxH = recurrence(x_LxBx3H, self.h_kernel_Hx3H[...], bias_3H)
        return jnp.swapaxes(h_LxBxH, 0, 1)

    def _with_biases(self, x: Array) -> tuple[Array, Array]:
        """Return the inputs' contributions to the gates with ``b_x``, (..., 3 H), and ``b_h``."""
        if self.bias_2x3H is None:
            return x, jnp.zeros(x.shape[-1], x.dtype)
        return x + self.bias_2x3H[0], self.bias_2x3H[1]


@jax.custom_vjp
def recurrence(x_LxBx3H: Array, kernel_Hx3H: Array, bias_3H: Array) -> Array:
    """Return the states, (L, B, H), from the inputs' contributions to the gates."""
    return _forward(x_LxBx3H, kernel_Hx3H, bias_3H)[0]


def _cell(h_BxH: Array, x_Bx3H: Array, kernel_Hx3H: Array, bias_3H: Array) -> tuple:
    """Return the next state, and the values that the gradient needs."""
    size = kernel_Hx3H.shape[0]
    g_Bx3H = h_BxH @ kernel_Hx3H + bias_3H
    rz_Bx2H = nnx.sigmoid(x_Bx3H[:, : 2 * size] + g_Bx3H[:, : 2 * size])
    r, z = rz_Bx2H[:, :size], rz_Bx2H[:, size:]
    hn = g_Bx3H[:, 2 * size :]
    n = jnp.tanh(x_Bx3H[:, 2 * size :] + r * hn)
    return n + z * (h_BxH - n), r, z, n, hn


def _forward(x_LxBx3H: Array, kernel_Hx3H: Array, bias_3H: Array) -> tuple:
    def step(h_BxH: Array, x_Bx3H: Array) -> tuple[Array, tuple]:
        kept = _cell(h_BxH, x_Bx3H, kernel_Hx3H, bias_3H)
        return kept[0], kept

    start_BxH = jnp.zeros((x_LxBx3H.shape[1], kernel_Hx3H.shape[0]), x_LxBx3H.dtype)
    return jax.lax.scan(step, start_BxH, x_LxBx3H)[1]


def _recurrence_fwd(x_LxBx3H: Array, kernel_Hx3H: Array, bias_3H: Array) -> tuple[Array, tuple]:
    kept = _forward(x_LxBx3H, kernel_Hx3H, bias_3H)
    return kept[0], (kernel_Hx3H, *kept)


def _recurrence_bwd(kept: tuple, dy_LxBxH: Array) -> tuple[Array, Array, Array]:
    kernel_Hx3H, h, *gates = kept
    before_LxBxH = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])

    def step(carry_BxH: Array, at: tuple) -> tuple[Array, tuple]:
        dy, before, r, z, n, hn = at
        dh = dy + carry_BxH
        dn = dh * (1 - z) * (1 - n * n)
        dr = dn * hn * r * (1 - r)
        dz = dh * (before - n) * z * (1 - z)
        dg_Bx3H = jnp.concatenate([dr, dz, dn * r], axis=-1)
        return dh * z + dg_Bx3H @ kernel_Hx3H.T, (dg_Bx3H, dn)

    inputs = (dy_LxBxH, before_LxBxH, *gates)
    _, (dg_LxBx3H, dn_LxBxH) = jax.lax.scan(step, jnp.zeros_like(dy_LxBxH[0]), inputs, reverse=True)
    # One product over all positions, instead of one outer product per position.
    size = h.shape[-1]
    dkernel_Hx3H = before_LxBxH.reshape(-1, size).T @ dg_LxBx3H.reshape(-1, 3 * size)
    dx_LxBx3H = jnp.concatenate([dg_LxBx3H[..., : 2 * size], dn_LxBxH], axis=-1)
    return dx_LxBx3H, dkernel_Hx3H, dg_LxBx3H.sum((0, 1))


recurrence.defvjp(_recurrence_fwd, _recurrence_bwd)
