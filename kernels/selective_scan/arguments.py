"""The arguments of a scan, their checks, and what is the same around every pure JAX scan."""

from collections.abc import Callable, Mapping
from functools import partial
from math import lcm
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from selective_scan.elementwise import softplus as exact_softplus

Tree = TypeVar("Tree")

# The axes of each argument, and which are whole numbers.
AXES = {
    "u": "BLE",
    "delta": "BLE",
    "A": "EN",
    "B": "BLN",
    "C": "BLN",
    "D": "E",
    "z": "BLE",
    "delta_bias": "E",
    "initial_state": "BEN",
    "lengths": "B",
    "start": "B",
    "stop": "B",
    "segment_ids": "BL",
}
# What B and C may also be, by the number of their axes: for groups of channels, G of E / G
# neighbours, or the same at all times.
_GROUPED = {2: "EN", 4: "BLGN"}
_WHOLE = ("lengths", "start", "stop", "segment_ids")

# The time step before a segment: no state is left after it. As a power of 2 it changes no digits.
_FOREVER = 2.0**60


class ScanInputs(NamedTuple):
    """The arrays of one selective scan; see ``selective_scan``. ``None`` where not given."""

    u: Array
    delta: Array
    A: Array
    B: Array
    C: Array
    D: Array | None = None
    z: Array | None = None
    delta_bias: Array | None = None
    initial_state: Array | None = None
    lengths: Array | None = None
    segment_ids: Array | None = None


def direction_of(inputs: ScanInputs, direction: int) -> ScanInputs:
    """Return one direction's arrays of those with the direction in front, 2, or 1 for both."""
    return jax.tree.map(lambda x: x[direction if len(x) == 2 else 0], inputs)


class Scan(Protocol):
    """An implementation: y in the dtype of u, and the last state in float32 or float64."""

    def __call__(
        self, inputs: ScanInputs, *, softplus: bool, reverse: bool, last: bool = True
    ) -> tuple[Array, Array]:
        """Return y (B, L, E) and the state after the last visited position (B, E, N).

        Without ``last`` the state is not wanted, and may be anything.
        """


class Recurrence(NamedTuple):
    """What a plain recurrence reads: h_l = exp(dt_l A) h_{l-1} + dt_l B_l u_l, and C_l . h_l.

    All of one dtype, float32 or float64: u and dt (B, L, E), A (E, N), B and C (B, L, N), and the
    state before the first visited position, (B, E, N). Time steps are positive, and 0 where a
    position is not valid: there the state passes unchanged. This package's own scans in plain JAX
    are also given B and C (E, N), the same at all times.
    """

    u: Array
    dt: Array
    A: Array
    B: Array
    C: Array
    state: Array


# core(Recurrence, reverse=...) -> (C . h at every position (B, L, E), the last state (B, E, N))
Core = Callable[..., tuple[Array, Array]]


def with_epilogue(core: Core) -> Scan:
    """Return the scan whose recurrence is ``core``: time steps before it, D and gate after it."""

    def scan(
        inputs: ScanInputs, *, softplus: bool, reverse: bool, last: bool = True
    ) -> tuple[Array, Array]:
        u, delta, A, B, C, D, z, delta_bias, state, lengths, segment_ids = inputs
        dtype = state_dtype(u, delta, A, B, C)
        valid_BxL = valid_mask(lengths, u.shape[1])
        dt = time_steps(delta, delta_bias, softplus, valid_BxL, dtype)
        given, (u, z) = u, where_valid(valid_BxL, (u, z))
        B, C = (x if x.ndim == 2 else where_valid(valid_BxL, x) for x in (B, C))
        if state is None:
            state = jnp.zeros((u.shape[0], *A.shape), dtype)
        u, A, B, C, state = (x.astype(dtype) for x in (u, A, B, C, state))
        entering, passing = u, dt
        if segment_ids is not None:
            starts_BxLx1 = segment_starts(segment_ids, valid_BxL, reverse)[..., None]
            entering = jnp.where(starts_BxLx1, dt * u / _FOREVER, u)
            passing = jnp.where(starts_BxLx1, _FOREVER, dt)
        inside = Recurrence(*varying_alike(entering, passing, A, B, C, state))
        y, state = core(inside, reverse=reverse)
        if D is not None:
            y += D.astype(dtype) * u
        if z is not None:
            y *= jax.nn.silu(z.astype(dtype))
        # Also for the gradient of y, which may be anything where nothing is valid.
        return where_valid(valid_BxL, y).astype(given.dtype), state

    return scan


def in_parts(scan: Scan, most_states: int) -> Core:
    """Return the recurrence by a scan of so many states at the most; parts' outputs add up."""

    def core(inputs: Recurrence, *, reverse: bool) -> tuple[Array, Array]:
        u, dt, *others = inputs
        states = inputs.A.shape[1]
        parts = -(-states // most_states)

        def cut(x: Array) -> Array:  # (..., N) -> (parts, ..., N / parts)
            x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -states % parts)])
            return jnp.moveaxis(x.reshape(*x.shape[:-1], parts, -1), -2, 0)

        def part(A: Array, B: Array, C: Array, state: Array) -> tuple[Array, Array]:
            one = ScanInputs(u, dt, A, B, C, initial_state=state)
            return scan(one, softplus=False, reverse=reverse)

        y, last = jax.vmap(part)(*map(cut, others))
        last = jnp.moveaxis(last, 0, -2)
        return jnp.sum(y, axis=0), last.reshape(*last.shape[:-2], -1)[..., :states]

    return core


def over_groups(scan: Scan) -> Scan:
    """Return the scan that also takes B and C for groups of channels.

    Groups are mapped copies, so nothing is repeated for the channels of a group, and what all share
    is not copied either.
    """

    def run(
        inputs: ScanInputs, *, softplus: bool, reverse: bool, last: bool = True
    ) -> tuple[Array, Array]:
        one = partial(scan, softplus=softplus, reverse=reverse, last=last)
        of_groups = [x.shape[2] for x in (inputs.B, inputs.C) if x.ndim == 4]
        if not of_groups:
            return one(inputs)
        groups = lcm(*of_groups)
        # Where the channels are, and so the groups in front of them.
        axes = {name: letters.find("E") for name, letters in AXES.items()}
        given: dict[str, Any] = {}
        mapped: dict[str, Any] = {}
        for name, x in inputs._asdict().items():
            axis = axes.get(name, -1)
            if x is not None and name in ("B", "C"):
                axis = _GROUPED.get(x.ndim, "").find("E")
            if x is not None and axis >= 0:
                x = x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :])
            elif x is not None and x.ndim == 4:
                axis, x = 2, jnp.repeat(x, groups // x.shape[2], axis=2)
            given[name], mapped[name] = x, None if x is None or axis < 0 else axis
        each = jax.vmap(one, in_axes=(ScanInputs(**mapped),), out_axes=(2, 1))
        y, state = each(ScanInputs(**given))
        return y.reshape(inputs.u.shape), state.reshape(-1, *inputs.A.shape)

    return run


def repeated_in_time(scan: Scan) -> Scan:
    """Return the scan that also takes B and C (E, N), the same at all times.

    To a scan that reads them by position they are groups of one channel, (B, L, E, N).
    """

    def run(
        inputs: ScanInputs, *, softplus: bool, reverse: bool, last: bool = True
    ) -> tuple[Array, Array]:
        repeated = {
            name: jnp.broadcast_to(x, (*inputs.u.shape[:2], *x.shape))
            for name, x in (("B", inputs.B), ("C", inputs.C))
            if x.ndim == 2
        }
        grouped = over_groups(scan)
        return grouped(inputs._replace(**repeated), softplus=softplus, reverse=reverse, last=last)

    return run


def as_arrays(
    arguments: Mapping[str, Any], axes: Mapping[str, str] = MappingProxyType({}), **sizes: int
) -> dict[str, Any]:
    """Return arguments by name as arrays; raise where a shape does not fit u and A, or a dtype.

    They are by the names of ``AXES``; ``None`` stays. ``axes`` are of arguments that have others
    than there, ``sizes`` of further axes. The first shape that does not fit is a ``ValueError``,
    the first dtype a ``TypeError``.
    """
    arrays: dict[str, Any] = {
        name: None if x is None else jnp.asarray(x) for name, x in arguments.items()
    }
    u, A = arrays["u"], arrays["A"]
    if u.ndim != 3:
        raise ValueError(f"u has shape {u.shape}; (batch, length, channels) expected")
    if A.ndim != 2:
        raise ValueError(f"A has shape {A.shape}; (channels, states) expected")
    sizes |= zip("BLEN", (*u.shape, A.shape[1]), strict=True)
    for name, array in arrays.items():
        if array is None:
            continue
        letters = axes.get(name, AXES[name])
        if name in ("B", "C") and name not in axes and array.ndim in _GROUPED:
            letters = _GROUPED[array.ndim]
            if array.ndim == 4 and (groups := array.shape[2]) and sizes["E"] % groups == 0:
                sizes["G"] = groups
            elif array.ndim == 4:
                raise ValueError(
                    f"{name} has shape {array.shape}; its groups, {array.shape[2]}, do not divide "
                    f"the {sizes['E']} channels of u"
                )
        expected = tuple(sizes[letter] for letter in letters)
        if array.shape != expected:
            raise ValueError(
                f"{name} has shape {array.shape}; {expected} expected ({', '.join(letters)}) "
                f"beside u {u.shape} and A {A.shape}"
            )
        kind, wanted, dtype = (
            (jnp.integer, "whole numbers expected: round it, and pass", "int32")
            if name in _WHOLE
            else (jnp.floating, "real floating-point numbers expected: pass", "float32")
        )
        if not jnp.issubdtype(array.dtype, kind):
            raise TypeError(f"{name} has dtype {array.dtype}; {wanted} {name}.astype(jnp.{dtype})")
    return arrays


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
    """Return dt = softplus(delta + bias), and 0 where a position is not valid.

    A time step of 0 decays nothing and adds nothing: the state passes unchanged.
    """
    dt = where_valid(valid_BxL, delta_BxLxE).astype(dtype)
    if delta_bias_E is not None:
        dt += delta_bias_E.astype(dtype)
    if softplus:
        dt = _softplus(dt)
    return where_valid(valid_BxL, dt)


_softplus = jax.custom_jvp(exact_softplus)
_softplus.defjvps(lambda dx, _, x: dx * jax.nn.sigmoid(x))


def valid_mask(lengths_B: Array | None, length: int) -> Array | None:
    """Return which positions are valid, (B, L) or (..., B, L); ``None`` stands for all."""
    return None if lengths_B is None else jnp.arange(length) < lengths_B[..., None]


def segment_starts(segment_ids: Array, valid_BxL: Array | None, reverse: bool) -> Array:
    """Return where the state starts anew, (B, L): the position visited before has another id.

    What is given may have the axes of ``valid_mask``, (..., B, L).
    """
    changed = segment_ids[..., 1:] != segment_ids[..., :-1]
    if valid_BxL is not None:
        changed &= valid_BxL[..., 1:]
    first = jnp.zeros_like(segment_ids, bool, shape=(*changed.shape[:-1], 1))
    return jnp.concatenate([changed, first] if reverse else [first, changed], axis=-1)


def pauses(segment_ids: Array, lengths: Array | None, reverse: bool) -> Array:
    """Return the time that passes before each position besides its time step, (..., B, L), float32.

    It is 0 but before a segment, where it leaves nothing of the state. The kernels add it to what
    decays the state; what a position puts in keeps the time step itself.
    """
    valid_BxL = valid_mask(lengths, segment_ids.shape[-1])
    return jnp.where(segment_starts(segment_ids, valid_BxL, reverse), jnp.float32(_FOREVER), 0)


def where_valid(valid_BxL: Array | None, arrays: Tree) -> Tree:
    """Return (B, L, ...) arrays with 0, and gradients of 0, where a position is not valid.

    There may be anything, NaN too, which no factor of 0 would undo.
    """
    if valid_BxL is None:
        return arrays
    return jax.tree.map(lambda x: jnp.where(valid_BxL[..., None], x, 0), arrays)


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
