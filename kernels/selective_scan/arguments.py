"""Checks of the arguments, and the time steps that every implementation starts from."""

import jax
import jax.numpy as jnp


def check_shapes(
    u: jax.Array,
    delta: jax.Array,
    A: jax.Array,
    B: jax.Array,
    C: jax.Array,
    C_shape: tuple[str, ...] = ("B", "L", "N"),
    **optional: tuple[jax.Array | None, tuple[str, ...]],
) -> None:
    """Raise ``ValueError`` for the first argument whose shape does not fit ``u`` and ``A``.

    Args:
        u: (B, L, E); says what B, L and E are.
        delta: (B, L, E).
        A: (E, N); says what N is.
        B: (B, L, N).
        C: ``C_shape``.
        C_shape: dimension letters of C.
        optional: further arguments by name, each with its dimension letters; ``None`` is skipped.
    """
    if u.ndim != 3:
        raise ValueError(f"u has shape {u.shape}; (batch, length, channels) expected")
    if A.ndim != 2:
        raise ValueError(f"A has shape {A.shape}; (channels, states) expected")
    sizes = {"B": u.shape[0], "L": u.shape[1], "E": u.shape[2], "N": A.shape[1]}
    named = {
        "delta": (delta, ("B", "L", "E")),
        "A": (A, ("E", "N")),
        "B": (B, ("B", "L", "N")),
        "C": (C, C_shape),
        **optional,
    }
    for name, (array, letters) in named.items():
        if array is None:
            continue
        expected = tuple(sizes[letter] for letter in letters)
        if array.shape != expected:
            raise ValueError(
                f"{name} has shape {array.shape}; {expected} expected ({', '.join(letters)}) "
                f"beside u {u.shape} and A {A.shape}"
            )


def state_dtype(*arrays: jax.Array) -> jnp.dtype:
    """Return the dtype of time steps, decays and states: float64 if any input is, else float32."""
    return jnp.result_type(jnp.float32, *arrays)


def time_steps(
    delta_BxLxE: jax.Array,
    delta_bias_E: jax.Array | None,
    softplus: bool,
    visited_BxL: jax.Array | None,
    dtype: jnp.dtype,
) -> jax.Array:
    """Return t = softplus(delta + bias), and 0 where a position is not visited.

    A time step of 0 decays nothing and adds nothing: the state passes unchanged.
    """
    t = delta_BxLxE.astype(dtype)
    if delta_bias_E is not None:
        t += delta_bias_E.astype(dtype)
    if softplus:
        t = jax.nn.softplus(t)
    return t if visited_BxL is None else jnp.where(visited_BxL[..., None], t, 0)
