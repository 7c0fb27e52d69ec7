"""The arguments of a scan, their checks, and what is the same around every pure JAX scan."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan.elementwise import softplus as exact_softplus

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


def direction_of(inputs: ScanInputs, direction: int) -> ScanInputs:
    """Return one direction's arrays of those with the direction in front, 2, or 1 for both."""
    return jax.tree.map(lambda x: x[direction if len(x) == 2 else 0], inputs)


class Scan(Protocol):
    """An implementation: y in the dtype of u, and the last state in float32 or float64."""

    def __call__(self, inputs: ScanInputs, *, softplus: bool, reverse: bool) -> tuple[Array, Array]:
        """Return y (B, L, E) and the state after the last visited position (B, E, N)."""


class Recurrence(NamedTuple):
    """What a plain recurrence reads: h_l = exp(dt_l A) h_{l-1} + dt_l B_l u_l, and C_l . h_l.

    All of one dtype; time steps are positive, and 0 where a position is not valid.
    """

    u_BxLxE: Array
    dt_BxLxE: Array
    A_ExN: Array
    B_BxLxN: Array
    C_BxLxN: Array
    state_BxExN: Array


# core(Recurrence, reverse=...) -> (C . h at every position (B, L, E), the last state (B, E, N))
Core = Callable[..., tuple[Array, Array]]


def with_epilogue(core: Core) -> Scan:
    """Return the scan whose recurrence is ``core``: time steps before it, D and gate after it."""

    def scan(inputs: ScanInputs, *, softplus: bool, reverse: bool) -> tuple[Array, Array]:
        u_BxLxE, delta_BxLxE, A_ExN, B_BxLxN, C_BxLxN, D_E, z_BxLxE, bias_E, state, lengths_B = (
            inputs
        )
        dtype = state_dtype(u_BxLxE, delta_BxLxE, A_ExN, B_BxLxN, C_BxLxN)
        valid_BxL = valid_mask(lengths_B, u_BxLxE.shape[1])
        dt_BxLxE = time_steps(delta_BxLxE, bias_E, softplus, valid_BxL, dtype)
        u_BxLxE, B_BxLxN, C_BxLxN, z_BxLxE = where_valid(
            valid_BxL, (u_BxLxE, B_BxLxN, C_BxLxN, z_BxLxE)
        )
        state_BxExN = initial(state, u_BxLxE.shape[0], A_ExN, dtype)
        u, A, B, C = (x.astype(dtype) for x in (u_BxLxE, A_ExN, B_BxLxN, C_BxLxN))
        inside = Recurrence(*varying_alike(u, dt_BxLxE, A, B, C, state_BxExN))
        y_BxLxE, last = core(inside, reverse=reverse)
        if D_E is not None:
            y_BxLxE += D_E.astype(dtype) * u
        if z_BxLxE is not None:
            y_BxLxE *= jax.nn.silu(z_BxLxE.astype(dtype))
        # Also for the gradient of y, which may be anything where nothing is valid.
        return where_valid(valid_BxL, y_BxLxE).astype(u_BxLxE.dtype), last

    return scan


def check_arrays(arrays: Mapping[str, Array | None]) -> None:
    """Raise where an array's shape does not fit u and A, or its dtype is of no use.

    Args:
        arrays: by name with dimension letters, as "u_BxLxE", which says what B, L and E are, and
            "A_ExN"; ``None`` is skipped. One value a row is a position, and an integer; everything
            else is floating point.

    Raises:
        ValueError: for the first shape.
        TypeError: for the first dtype.
    """
    u, A = arrays["u_BxLxE"], arrays["A_ExN"]
    assert u is not None
    assert A is not None
    if u.ndim != 3:
        raise ValueError(f"u has shape {u.shape}; (batch, length, channels) expected")
    if A.ndim != 2:
        raise ValueError(f"A has shape {A.shape}; (channels, states) expected")
    sizes = dict(zip("BLEN", (*u.shape, A.shape[1]), strict=True))
    for full_name, array in arrays.items():
        if array is None:
            continue
        name, _, suffix = full_name.rpartition("_")
        letters = suffix.split("x")
        expected = tuple(sizes[letter] for letter in letters)
        if array.shape != expected:
            raise ValueError(
                f"{name} has shape {array.shape}; {expected} expected ({', '.join(letters)}) "
                f"beside u {u.shape} and A {A.shape}"
            )
        if letters == ["B"]:
            fits = jnp.issubdtype(array.dtype, jnp.integer)
            wanted, dtype = "whole numbers expected: round it, and pass", "int32"
        else:
            fits = jnp.issubdtype(array.dtype, jnp.floating)
            wanted, dtype = "real floating-point numbers expected: pass", "float32"
        if not fits:
            raise TypeError(f"{name} has dtype {array.dtype}; {wanted} {name}.astype(jnp.{dtype})")


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
    valid_BxL: Array | None,
    dtype: jnp.dtype,
) -> Array:
    """Return t = softplus(delta + bias), and 0 where a position is not valid.

    A time step of 0 decays nothing and adds nothing: the state passes unchanged.
    """
    t = where_valid(valid_BxL, delta_BxLxE).astype(dtype)
    if delta_bias_E is not None:
        t += delta_bias_E.astype(dtype)
    if softplus:
        t = _softplus(t)
    return where_valid(valid_BxL, t)


def where_valid(valid_BxL: Array | None, arrays: Tree) -> Tree:
    """Return (B, L, ...) arrays with 0, and gradients of 0, where a position is not valid.

    There may be anything, NaN too, which no factor of 0 would undo.
    """
    if valid_BxL is None:
        return arrays
    return jax.tree.map(lambda x: jnp.where(valid_BxL[..., None], x, 0), arrays)


_softplus = jax.custom_jvp(exact_softplus)
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


def valid_mask(lengths_B: Array | None, length: int) -> Array | None:
    """Return which positions are valid, (B, L) or (..., B, L); ``None`` stands for all."""
    return None if lengths_B is None else jnp.arange(length) < lengths_B[..., None]


def initial(state_BxExN: Array | None, batch: int, A_ExN: Array, dtype: jnp.dtype) -> Array:
    """Return the state before the first visited position, zeros where none is given."""
    if state_BxExN is None:
        return jnp.zeros((batch, *A_ExN.shape), dtype)
    return state_BxExN.astype(dtype)
