"""The arguments of a scan, their checks, and what is the same around every pure JAX scan."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan.activations import softplus

Tree = TypeVar("Tree")


class ScanInputs(NamedTuple):
    """The arrays of one selective scan; see ``selective_scan``. ``None`` where not given."""

    u_BxLxE: Array
    delta_BxLxE: Array
    A_ExN: Array
    B_BxLxN: Array
    C_BxLxN: Array
    D_E: Array | None = None
    z_BxLxE: Array | None = None
    delta_bias_E: Array | None = None
    initial_state_BxExN: Array | None = None
    lengths_B: Array | None = None


class Scan(Protocol):
    """An implementation: y in the dtype of u, and the last state in float32 or float64."""

    def __call__(self, inputs: ScanInputs, *, softplus: bool, reverse: bool) -> tuple[Array, Array]:
        """Return y (B, L, E) and the state behind the last visited position (B, E, N)."""


# What is inside: (u, t, A, B, C, initial state, reverse=...) -> (C . h, last state), all of one
# dtype, with time steps t that are positive, and 0 where a position is not visited.
Core = Callable[..., tuple[Array, Array]]


def surrounded(core: Core) -> Scan:
    """Return the scan whose recurrence is ``core``: time steps before it, D and the gate behind."""

    def scan(inputs: ScanInputs, *, softplus: bool, reverse: bool) -> tuple[Array, Array]:
        u_BxLxE, delta_BxLxE, A_ExN, B_BxLxN, C_BxLxN, D_E, z_BxLxE, bias_E, state, lengths_B = (
            inputs
        )
        dtype = state_dtype(u_BxLxE, delta_BxLxE, A_ExN, B_BxLxN, C_BxLxN)
        visited_BxL = visited(lengths_B, u_BxLxE.shape[1])
        t_BxLxE = time_steps(delta_BxLxE, bias_E, softplus, visited_BxL, dtype)
        u_BxLxE, B_BxLxN, C_BxLxN, z_BxLxE = where_visited(
            visited_BxL, (u_BxLxE, B_BxLxN, C_BxLxN, z_BxLxE)
        )
        state_BxExN = initial(state, u_BxLxE.shape[0], A_ExN, dtype)
        u, A, B, C = (x.astype(dtype) for x in (u_BxLxE, A_ExN, B_BxLxN, C_BxLxN))
        inside = varying_alike(u, t_BxLxE, A, B, C, state_BxExN)
        y_BxLxE, last = core(*inside, reverse=reverse)
        if D_E is not None:
            y_BxLxE += D_E.astype(dtype) * u
        if z_BxLxE is not None:
            y_BxLxE *= jax.nn.silu(z_BxLxE.astype(dtype))
        # Also for the gradient of y, which may be anything where nothing is visited.
        return where_visited(visited_BxL, y_BxLxE).astype(u_BxLxE.dtype), last

    return scan


def check_arrays(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    C_shape: tuple[str, ...] = ("B", "L", "N"),
    **optional: tuple[Array | None, tuple[str, ...]],
) -> None:
    """Raise where an argument's shape does not fit ``u`` and ``A``, or its dtype is of no use.

    Args:
        u: (B, L, E); says what B, L and E are.
        delta: (B, L, E).
        A: (E, N); says what N is.
        B: (B, L, N).
        C: ``C_shape``.
        C_shape: dimension letters of C.
        optional: further arguments by name, each with its dimension letters; ``None`` is skipped.
            One value a row is a position, and an integer; everything else is floating point.

    Raises:
        ValueError: for the first shape.
        TypeError: for the first dtype.
    """
    if u.ndim != 3:
        raise ValueError(f"u has shape {u.shape}; (batch, length, channels) expected")
    if A.ndim != 2:
        raise ValueError(f"A has shape {A.shape}; (channels, states) expected")
    sizes = {"B": u.shape[0], "L": u.shape[1], "E": u.shape[2], "N": A.shape[1]}
    named = {
        "u": (u, ("B", "L", "E")),
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
        if letters == ("B",):
            if not jnp.issubdtype(array.dtype, jnp.integer):
                raise TypeError(
                    f"{name} has dtype {array.dtype}; whole numbers expected: round it, and pass "
                    f"{name}.astype(jnp.int32)"
                )
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"{name} has dtype {array.dtype}; real floating-point numbers expected: pass "
                f"{name}.astype(jnp.float32)"
            )


def is_empty(*arrays: Array | None) -> bool:
    """Return whether there is no row, position, channel or state, and nothing to cut into parts.

    "sequential" cuts nothing, and runs also then.
    """
    return any(0 in x.shape for x in arrays if x is not None)


def state_dtype(*arrays: Array) -> jnp.dtype:
    """Return the dtype of time steps, decays and states: float64 if any input is, else float32."""
    return jnp.result_type(jnp.float32, *arrays)


def time_steps(
    delta_BxLxE: Array,
    delta_bias_E: Array | None,
    softplus: bool,
    visited_BxL: Array | None,
    dtype: jnp.dtype,
) -> Array:
    """Return t = softplus(delta + bias), and 0 where a position is not visited.

    A time step of 0 decays nothing and adds nothing: the state passes unchanged.
    """
    t = where_visited(visited_BxL, delta_BxLxE).astype(dtype)
    if delta_bias_E is not None:
        t += delta_bias_E.astype(dtype)
    if softplus:
        t = _softplus(t)
    return where_visited(visited_BxL, t)


def where_visited(visited_BxL: Array | None, arrays: Tree) -> Tree:
    """Return (B, L, ...) arrays with 0, and gradients of 0, where a position is not visited.

    There may be anything, NaN too, which no factor of 0 would undo.
    """
    if visited_BxL is None:
        return arrays
    return jax.tree.map(lambda x: jnp.where(visited_BxL[..., None], x, 0), arrays)


_softplus = jax.custom_jvp(softplus)
_softplus.defjvps(lambda dx, _, x: dx * jax.nn.sigmoid(x))


def varying_alike(*arrays: Array) -> tuple[Array, ...]:
    """Return the arrays with one type inside ``shard_map``, unchanged elsewhere.

    Hand-written gradients and carries of loops need it: there a parameter that all devices share
    has another type than an array of which each has a part. Its gradient is then summed over them.
    """
    varying = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    axes = frozenset().union(*varying)
    return tuple(
        jax.lax.pcast(x, tuple(axes - own), to="varying")
        for x, own in zip(arrays, varying, strict=True)
    )


def visited(lengths_B: Array | None, length: int) -> Array | None:
    """Return which positions are visited, (B, L) or (..., B, L); ``None`` stands for all."""
    return None if lengths_B is None else jnp.arange(length) < lengths_B[..., None]


def initial(state_BxExN: Array | None, batch: int, A_ExN: Array, dtype: jnp.dtype) -> Array:
    """Return the state before the first visited position, zeros where none is given."""
    if state_BxExN is None:
        return jnp.zeros((batch, *A_ExN.shape), dtype)
    return state_BxExN.astype(dtype)
