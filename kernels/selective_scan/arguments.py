"""The arguments of a scan, their checks, and what all scans in plain JAX have in common."""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from inspect import signature
from math import lcm
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec, auto_axes

from selective_scan.elementwise import softplus as exact_softplus

Tree = TypeVar("Tree")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# The axes of each argument.
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
    "state": "BEN",
    "lengths": "B",
    "start": "B",
    "stop": "B",
    "segment_ids": "BL",
}
# Other axes that B and C may have, by their number: the same at all positions, or for G groups of
# E / G neighbouring channels.
_GROUPED = {2: "EN", 4: "BLGN"}
_WORDS = {"B": "batch", "L": "length", "E": "channels"}
_INTEGERS = ("lengths", "start", "stop", "segment_ids")

# A time step so long that nothing of the state is left after it: it resets the state at the start
# of a segment. Dividing and multiplying by a power of 2 is exact.
_FOREVER = 2.0**60


class ScanInputs(NamedTuple):
    """The arrays of one selective scan; see ``selective_scan``. ``None`` if not given."""

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
    """Return the arrays of one direction, from arrays with a leading axis of 2, or 1 if shared."""
    return jax.tree.map(lambda x: x[direction if len(x) == 2 else 0], inputs)


class Scan(Protocol):
    """An implementation: y in the dtype of u, and the last state in float32 or float64."""

    def __call__(
        self, inputs: ScanInputs, *, softplus: bool, reverse: bool, last: bool = True
    ) -> tuple[Array, Array]:
        """Return y (B, L, E) and the state after the last position that is scanned, (B, E, N).

        Without ``last`` the caller ignores that state, and it may hold anything.
        """


class Recurrence(NamedTuple):
    """The inputs of the recurrence h_l = exp(dt_l A) h_{l-1} + dt_l B_l u_l, with y_l = C_l . h_l.

    All arrays have one dtype, float32 or float64: u and dt (B, L, E), A (E, N), B and C (B, L, N),
    and the state before the first position that is scanned, (B, E, N). Time steps are positive, or
    0 at invalid positions, which leave the state unchanged. The package's own scans in plain JAX
    also take B and C of shape (E, N), the same at all positions.
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
    """Return a scan that makes the time steps, runs the recurrence ``core``, adds D and gates.

    It also takes B and C of groups of channels; see ``over_groups``.
    """

    def scan(
        inputs: ScanInputs, *, softplus: bool, reverse: bool, last: bool = True
    ) -> tuple[Array, Array]:
        u, delta, A, B, C, D, z, delta_bias, state, lengths, segment_ids = inputs
        dtype = state_dtype(*inputs)
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
        # This masks the gradient of y, too, which may be anything at invalid positions.
        return where_valid(valid_BxL, y).astype(given.dtype), state

    return over_groups(scan)


def in_parts(scan: Scan, most_states: int) -> Core:
    """Return a recurrence over any number of states, by a scan of at most ``most_states``.

    The states are cut into parts of equal size, which are scanned as mapped copies; y is the sum of
    the parts' outputs.
    """

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
    """Return the scan, extended to B and C of groups of channels, (B, L, G, N).

    The groups are mapped by ``jax.vmap``, so B and C are not repeated for the channels of a group,
    and arrays that all groups share are not copied.
    """

    def run(
        inputs: ScanInputs, *, softplus: bool, reverse: bool, last: bool = True
    ) -> tuple[Array, Array]:
        one = partial(scan, softplus=softplus, reverse=reverse, last=last)
        of_groups = [x.shape[2] for x in (inputs.B, inputs.C) if x.ndim == 4]
        if not of_groups:
            return one(inputs)
        groups = lcm(*of_groups)
        # The axis of the channels, which becomes two: the groups, and the channels of each.
        axes = {name: letters.find("E") for name, letters in AXES.items()}
        given: dict[str, Any] = {}
        mapped: dict[str, Any] = {}
        for name, x in inputs._asdict().items():
            axis = axes.get(name, -1)
            if x is not None and name in ("B", "C"):
                axis = _GROUPED.get(x.ndim, "").find("E")
            if x is not None and axis >= 0:
                # Of an array of size 0, a reshape cannot find out the size of an axis itself.
                each_has = x.shape[axis] // groups
                x = x.reshape(*x.shape[:axis], groups, each_has, *x.shape[axis + 1 :])
            elif x is not None and x.ndim == 4:
                axis, x = 2, jnp.repeat(x, groups // x.shape[2], axis=2)
            given[name], mapped[name] = x, None if x is None or axis < 0 else axis
        each = jax.vmap(one, in_axes=(ScanInputs(**mapped),), out_axes=(2, 1))
        y, state = each(ScanInputs(**given))
        return y.reshape(inputs.u.shape), state.reshape(inputs.u.shape[0], *inputs.A.shape)

    return run


def repeated_in_time(scan: Scan) -> Scan:
    """Return the scan, extended to B and C of shape (E, N), the same at all positions.

    They are repeated at every position, as groups of one channel each, (B, L, E, N), which the scan
    must take.
    """

    def run(
        inputs: ScanInputs, *, softplus: bool, reverse: bool, last: bool = True
    ) -> tuple[Array, Array]:
        repeated = {
            name: jnp.broadcast_to(x, (*inputs.u.shape[:2], *x.shape))
            for name, x in (("B", inputs.B), ("C", inputs.C))
            if x.ndim == 2
        }
        return scan(inputs._replace(**repeated), softplus=softplus, reverse=reverse, last=last)

    return run


def as_arrays(
    arguments: Mapping[str, Any], axes: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the arguments as arrays, after checking their shapes and dtypes.

    Args:
        arguments: by the names of ``AXES``, u and A among them; ``None`` stays ``None``.
        axes: the axes of arguments that have others here than in ``AXES``.

    Raises:
        ValueError: a shape does not fit those of u and A.
        TypeError: lengths, positions or ids are not integers, or another argument is not real
            floating point.
    """
    arrays: dict[str, Any] = {
        name: None if x is None else jnp.asarray(x) for name, x in arguments.items()
    }
    u, A, axes_of_u = arrays["u"], arrays["A"], axes.get("u", AXES["u"])
    if u.ndim != len(axes_of_u):
        words = ", ".join(_WORDS[letter] for letter in axes_of_u)
        raise ValueError(f"u has shape {u.shape}; ({words}) expected")
    if A.ndim != 2:
        raise ValueError(f"A has shape {A.shape}; (channels, states) expected")
    sizes = dict(zip((*axes_of_u, "N"), (*u.shape, A.shape[1]), strict=True))
    for name, array in arrays.items():
        if array is None:
            continue
        letters = axes.get(name, AXES[name])
        if name in ("B", "C") and name not in axes and array.ndim in _GROUPED:
            letters = _GROUPED[array.ndim]
        if "G" in letters:
            sizes["G"] = groups = array.shape[letters.index("G")]
            if not groups or sizes["E"] % groups:
                raise ValueError(
                    f"{name} has shape {array.shape}; its groups, {groups}, do not divide "
                    f"the {sizes['E']} channels of u"
                )
        expected = tuple(sizes[letter] for letter in letters)
        if array.shape != expected:
            raise ValueError(
                f"{name} has shape {array.shape}; {expected} expected ({', '.join(letters)}) "
                f"for u of shape {u.shape} and A of shape {A.shape}"
            )
        kind, wanted, dtype = (
            (jnp.integer, "integers expected: round it, and pass", "int32")
            if name in _INTEGERS
            else (jnp.floating, "real floating point of 16 bits or more expected: pass", "float32")
        )
        if not jnp.issubdtype(array.dtype, kind) or (
            kind is jnp.floating and array.dtype.itemsize < 2
        ):
            raise TypeError(f"{name} has dtype {array.dtype}; {wanted} {name}.astype(jnp.{dtype})")
    return arrays


def with_automatic_axes(
    *axes_of_results: str,
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Return a decorator for functions of the arrays of ``AXES``, u among them.

    On a mesh of Explicit axes, XLA then decides how arrays inside are sharded, as it does on one of
    Auto axes; JAX would ask for the sharding of each sum and each indexed array. The results are
    sharded as u is in batch, length and channels.

    Args:
        axes_of_results: the axes of each result. A function with an option ``return_last_state``
            returns the first result alone if that is not set.
    """

    def decorator(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @wraps(function)
        def run(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
            given = [x for x in (*args, *options.values()) if isinstance(x, Array)]
            meshes = [jax.typeof(x).sharding.mesh for x in given]
            mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
            if mesh is None:
                return function(*args, **options)
            named = signature(function).bind(*args, **options).arguments
            of_arrays = [name for name in AXES if named.get(name) is not None]
            arrays = {name: jnp.asarray(named.pop(name)) for name in of_arrays}
            spec_of_u = jax.typeof(arrays["u"]).sharding.spec[-len(AXES["u"]) :]
            spec = dict(zip(AXES["u"], spec_of_u, strict=False))
            results = tuple(
                NamedSharding(mesh, PartitionSpec(*map(spec.get, axes))) for axes in axes_of_results
            )
            call: Callable[..., Result] = function
            inside = auto_axes(
                lambda arrays: call(**arrays, **named),
                axes=mesh.explicit_axes,
                out_sharding=results if named.get("return_last_state") else results[0],
            )
            return inside(arrays)

        return run

    return decorator


def state_dtype(*inputs: Array | None) -> jnp.dtype:
    """Return the dtype of time steps, decays and states: float64 if any input is, else float32."""
    any_float64 = any(x.dtype == jnp.float64 for x in inputs if x is not None)
    return jnp.result_type(jnp.float64 if any_float64 else jnp.float32)


def time_steps(
    delta_BxLxE: Array,
    delta_bias_E: Array | None,
    softplus: bool,
    valid_BxL: Array | None,
    dtype: jnp.dtype,
) -> Array:
    """Return dt = softplus(delta + bias), (B, L, E), with 0 at invalid positions.

    A time step of 0 neither decays the state nor adds to it, and so leaves it unchanged.
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
    """Return which positions are valid, (..., B, L), or ``None`` if all are."""
    return None if lengths_B is None else jnp.arange(length) < lengths_B[..., None]


def segment_starts(segment_ids: Array, valid_BxL: Array | None, reverse: bool) -> Array:
    """Return the positions where a new segment starts, (..., B, L), booleans.

    A position starts one if the position scanned before it has another id. The first position that
    is scanned does not count: the state there is the initial one.
    """
    changed = segment_ids[..., 1:] != segment_ids[..., :-1]
    if valid_BxL is not None:
        changed &= valid_BxL[..., 1:]
    first = jnp.zeros_like(segment_ids, bool, shape=(*changed.shape[:-1], 1))
    return jnp.concatenate([changed, first] if reverse else [first, changed], axis=-1)


def pauses(segment_ids: Array, lengths: Array | None, reverse: bool) -> Array:
    """Return the time that passes before each position besides its time step, (..., B, L), float32.

    At the first position of a segment it is so long that the state decays to 0; elsewhere it is 0.
    The kernels add it to the time step in the decay of the state, but not in what the position adds
    to the state.
    """
    valid_BxL = valid_mask(lengths, segment_ids.shape[-1])
    return jnp.where(segment_starts(segment_ids, valid_BxL, reverse), jnp.float32(_FOREVER), 0)


def where_valid(valid_BxL: Array | None, arrays: Tree) -> Tree:
    """Return (B, L, ...) arrays with 0 at invalid positions, which then have gradients of 0, too.

    Padding may hold anything, even NaN, so a multiplication by 0 would not do.
    """
    if valid_BxL is None:
        return arrays
    return jax.tree.map(lambda x: jnp.where(valid_BxL[..., None], x, 0), arrays)


def varying_alike(*arrays: Array) -> tuple[Array, ...]:
    """Return the arrays, which inside ``shard_map`` are made to vary over the same mesh axes.

    There a parameter that is replicated has another type than an array that is sharded, and
    hand-written gradients and the carries of loops need equal types. The gradient of a replicated
    array is then summed over the devices. Outside ``shard_map`` nothing changes.
    """
    varying = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    axes = frozenset().union(*varying)
    return tuple(
        jax.lax.pcast(x, tuple(axes - own), to="varying")
        for x, own in zip(arrays, varying, strict=True)
    )
