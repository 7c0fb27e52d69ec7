"""Problems for selective scans: random inputs, and the float64 oracle's results for them."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from selective_scan import selective_scan_gradients, selective_scan_reference

Arrays = dict[str, jax.Array]
Exact = dict[str, np.ndarray]

# A problem's arguments, in the order of ``selective_scan``.
ORDER = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
IN_TIME = ("u", "delta", "B", "C", "z", "y", "dy")  # (B, L, ...)
# The ranges of the time steps: those of a freshly initialized Mamba layer, and ones so long that
# hardly anything of a state is left after a position.
DECAYS = {"layer": (1e-3, 0.1), "strong": (0.1, 50.0)}
# The most state elements for the oracle, which loops in Python and keeps all states in float64.
_ORACLE_ELEMENTS = 1_000_000
# The most state elements for second derivatives, which need the oracle's gradients twice more.
SECOND_ELEMENTS = 2**18
# Added to the sums of terms, since terms below 1.2e-38 are 0 or subnormal in float32.
_FLUSHED = 1e-28


class Shape(NamedTuple):
    """The size of a scan: batch B, length L, channels E, states per channel N."""

    batch: int
    length: int
    channels: int
    states: int

    @property
    def elements(self) -> int:
        """State elements, B * L * E * N."""
        return math.prod(self)


class Expected(NamedTuple):
    """The oracle's results by name: "y", "last", and the gradient of each argument by its name."""

    values: Exact
    # For each element, the sum of its terms' absolute values: the rounding error in float32 is
    # proportional to this, however small the element is.
    sums: Exact
    second: Exact | None = None  # at small sizes, the Hessian of sum(y * dy) times the arguments


class Problem(NamedTuple):
    """Random inputs of one shape and dtype on the device, and the part that the oracle checks."""

    shape: Shape
    # By the oracle's names; A, D and bias are float32, larger arrays have the problem's dtype. If
    # the length is 1 (a token), there is an "initial_state", too.
    arguments: Arrays
    # Weights of y (B, L, E), which are 0 outside the part that is checked. So the gradients of A,
    # B, C, D and bias, which are sums over rows or channels, depend on that part only.
    dy: jax.Array
    rows: np.ndarray  # the batch entries that are checked, evenly spread
    channels: np.ndarray  # the channels that are checked, evenly spread

    def cut(self, name: str, x: Any) -> np.ndarray:
        """Return the checked part of an argument, y or a gradient, by its name, in float64."""
        if name in ("u", "delta", "z", "y", "dy"):
            x = x[self.rows][:, :, self.channels]
        elif name in ("last", "initial_state"):
            x = x[self.rows][:, self.channels]
        elif name in ("B", "C"):
            x = x[self.rows]
        else:  # A, D, delta_bias
            x = x[self.channels]
        return np.asarray(x).astype(np.float64)

    def expected(self) -> Expected:
        """Return the oracle's results for the part that is checked."""
        cut = {name: self.cut(name, x) for name, x in self.arguments.items()}
        dy = self.cut("dy", self.dy)
        dlast = np.zeros((len(self.rows), len(self.channels), self.shape.states))
        expected = ask_oracle(dy, dlast, cut)
        if self.shape.elements > SECOND_ELEMENTS:
            return expected
        step = 1e-5  # of the central differences, whose error is then about 1e-9
        after, before = (
            selective_scan_gradients(
                dy, dlast, **{k: factor * x for k, x in cut.items()}, delta_softplus=True
            )
            for factor in (1 + step, 1 - step)
        )
        return expected._replace(second={k: (after[k] - before[k]) / (2 * step) for k in cut})


def ask_oracle(
    dy: np.ndarray, dlast: np.ndarray, arrays: Mapping[str, Any], *, reverse: bool = False
) -> Expected:
    """Return y, the last state and the gradients of sum(y * dy) + sum(last * dlast).

    ``arrays`` are the arguments of ``selective_scan_reference`` by name; softplus is applied. All
    arrays are float64.
    """
    options: Any = {"delta_softplus": True, "reverse": reverse}
    values = selective_scan_gradients(dy, dlast, **arrays, **options)
    values["y"], values["last"] = selective_scan_reference(**arrays, **options)
    # The sums of absolute values are the results for absolute inputs. Time steps and A stay, as
    # they change no term's sign; the gate becomes a weight.
    signed = ("delta", "delta_bias", "A")
    large: dict[str, Any] = {k: x if k in signed else np.abs(x) for k, x in arrays.items()}
    large.pop("z", None)
    z, gate, slope = arrays.get("z"), np.ones_like(dy), np.zeros_like(dy)
    if z is not None:
        sigmoid = 1 / (1 + np.exp(-z))
        gate, slope = z * sigmoid, sigmoid * (1 + z * (1 - sigmoid))
    weights = np.abs(dy * gate)
    sums = selective_scan_gradients(weights, np.abs(dlast), **large, **options)
    ungated, sums["last"] = selective_scan_reference(**large, **options)
    sums["y"], sums["z"] = ungated * np.abs(gate), ungated * np.abs(dy * slope)
    # Of the two terms of a time step's gradient, the one through A is negative here.
    raw = arrays["delta"] + arrays.get("delta_bias", 0)
    entered = (sums["u"] - weights * large.get("D", 0)) * large["u"] / np.logaddexp(raw, 0)
    sums["delta"] = 2 * entered / (1 + np.exp(-raw)) - sums["delta"]
    sums["delta_bias"] = sums["delta"].sum((0, 1))
    return Expected(values, sums)


def make_problem(shape: Shape, dtype: str, decays: str = "layer") -> Problem:
    """Return random inputs like those of a Mamba layer: time steps of ``DECAYS``, A = -1 ... -N.

    The program that is checked runs at its whole size. The oracle checks all positions and states,
    of as many batch entries and channels as it has time for, with the first and the last ones.
    """
    room = max(1, _ORACLE_ELEMENTS // (shape.length * shape.states))
    batch = min(shape.batch, 4, room)
    channels = min(shape.channels, 32, max(1, room // batch))
    rows, columns = (
        np.unique(np.linspace(0, size - 1, count).round().astype(int))
        for size, count in ((shape.batch, batch), (shape.channels, channels))
    )
    inside_B = np.isin(np.arange(shape.batch), rows)
    inside_E = np.isin(np.arange(shape.channels), columns)
    log_steps = tuple(map(math.log, DECAYS[decays]))
    arguments, dy = _draw(jax.random.key(0), inside_B, inside_E, log_steps, shape, dtype)
    return Problem(shape, arguments, dy, rows, columns)


@partial(jax.jit, static_argnums=(4, 5))
def _draw(
    key: jax.Array,
    inside_B: jax.Array,
    inside_E: jax.Array,
    log_steps: tuple[float, ...],
    shape: Shape,
    dtype: str,
) -> tuple[Arrays, jax.Array]:
    B, L, E, N = shape
    keys = iter(jax.random.split(key, 8))

    def normal(*sizes: int) -> jax.Array:
        return jax.random.normal(next(keys), sizes)

    low, high = log_steps
    step_E = jnp.exp(jax.random.uniform(next(keys), (E,), minval=low, maxval=high))
    arguments = {
        "u": normal(B, L, E).astype(dtype),
        "delta": (0.5 * normal(B, L, E)).astype(dtype),
        "A": -jnp.broadcast_to(jnp.arange(1.0, N + 1), (E, N)),
        "B": normal(B, L, N).astype(dtype),
        "C": normal(B, L, N).astype(dtype),
        "D": jnp.ones(E),
        "z": normal(B, L, E).astype(dtype),
        "delta_bias": jnp.log(jnp.expm1(step_E)),  # softplus(bias) is the time step
    }
    if L == 1:
        arguments["initial_state"] = normal(B, E, N)
    dy_BxLxE = jnp.where(inside_B[:, None, None] & inside_E, normal(B, L, E), 0)
    return arguments, dy_BxLxE.astype(dtype)


def input_bytes(shape: Shape, dtype: str) -> int:
    """Return the bytes of the inputs and of the weights of y."""
    B, L, E, N = shape
    state = B * E * N if L == 1 else 0
    values = 4 * B * L * E + 2 * B * L * N
    return values * jnp.dtype(dtype).itemsize + 4 * (E * N + 2 * E + state)


def error(actual: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest absolute error relative to the largest absolute expected value."""
    largest = float(np.abs(wanted).max(initial=0.0))
    return float(np.abs(actual - wanted).max(initial=0.0)) / (largest or 1.0)


def element_error(actual: np.ndarray, wanted: np.ndarray, sums: np.ndarray) -> float:
    """Return the largest error of an element relative to the sum of its terms' absolute values."""
    return float((np.abs(actual - wanted) / (sums + _FLUSHED)).max(initial=0.0))
