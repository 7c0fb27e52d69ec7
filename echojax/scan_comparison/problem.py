"""The inputs of one comparison, and what the float64 oracle makes of them."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from echojax.scan_comparison.settings import Shape
from selective_scan import selective_scan_gradients, selective_scan_reference

Arrays = dict[str, jax.Array]

# What the oracle may take: its Python loop costs time, and it keeps all states in float64.
_ORACLE_ELEMENTS = 2_000_000


class Cut(NamedTuple):
    """The batch entries and channels, evenly spread, that are held against the oracle."""

    batch: np.ndarray
    channels: np.ndarray

    def of(self, name: str, x: jax.Array) -> np.ndarray:
        """Return the cut of an argument, of y or of a gradient, by its name, in float64."""
        if name in ("u", "delta", "z", "y", "dy"):
            x = x[self.batch][:, :, self.channels]
        elif name in ("B", "C"):
            x = x[self.batch]
        else:  # A, D, delta_bias
            x = x[self.channels]
        return np.asarray(x).astype(np.float64)


class Problem(NamedTuple):
    """One shape and dtype with random inputs on the device.

    Attributes:
        arguments: by the oracle's names; large arrays in the dtype, A, D and bias float32.
        dy: weights of y (B, L, E), 0 outside the cut: the gradients of the cut are then those of
            the cut alone, and so are exact for A, B, C, D and bias, which sum over others.
        cut: what is compared with the oracle.
    """

    shape: Shape
    arguments: Arrays
    dy: jax.Array
    cut: Cut


def make_problem(shape: Shape, dtype: str) -> Problem:
    """Return random inputs as a Mamba layer has them: time steps 0.001 to 0.1, A = -1 ... -N."""
    cut = oracle_cut(shape)
    inside_B = np.isin(np.arange(shape.batch), cut.batch)
    inside_E = np.isin(np.arange(shape.channels), cut.channels)
    arguments, dy = _draw(jax.random.key(0), inside_B, inside_E, shape, dtype)
    return Problem(shape, arguments, dy, cut)


@partial(jax.jit, static_argnums=(3, 4))
def _draw(
    key: jax.Array, inside_B: jax.Array, inside_E: jax.Array, shape: Shape, dtype: str
) -> tuple[Arrays, jax.Array]:
    B, L, E, N = shape
    keys = iter(jax.random.split(key, 8))

    def normal(*sizes: int) -> jax.Array:
        return jax.random.normal(next(keys), sizes)

    step_E = jnp.exp(
        jax.random.uniform(next(keys), (E,), minval=jnp.log(1e-3), maxval=jnp.log(0.1))
    )
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
    dy_BxLxE = jnp.where(inside_B[:, None, None] & inside_E, normal(B, L, E), 0)
    return arguments, dy_BxLxE.astype(dtype)


def input_bytes(shape: Shape, dtype: str) -> int:
    """Return the memory of the inputs and the weights of y."""
    B, L, E, N = shape
    return (4 * B * L * E + 2 * B * L * N) * jnp.dtype(dtype).itemsize + 4 * (E * N + 2 * E)


def oracle_cut(shape: Shape) -> Cut:
    """Return as many batch entries and channels as the oracle has time for, first and last too.

    Length and states stay whole, and so does the program that is checked.
    """
    room = max(1, _ORACLE_ELEMENTS // (shape.length * shape.states))
    batch = min(shape.batch, 4, room)
    channels = min(shape.channels, 32, max(1, room // batch))
    return Cut(_spread(shape.batch, batch), _spread(shape.channels, channels))


def _spread(size: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, size - 1, count).round().astype(int))


def expected(problem: Problem) -> dict[str, np.ndarray]:
    """Return the oracle's y and gradients on the cut: "y" and the arguments' names."""
    cut: dict[str, Any] = {name: problem.cut.of(name, x) for name, x in problem.arguments.items()}
    dy = problem.cut.of("dy", problem.dy)
    y, last = selective_scan_reference(**cut, delta_softplus=True)
    gradients = selective_scan_gradients(dy, np.zeros_like(last), **cut, delta_softplus=True)
    return {"y": y, **{name: gradients[name] for name in cut}}


def error(actual: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest absolute error relative to the largest absolute expected value."""
    largest = float(np.abs(wanted).max(initial=0.0))
    return float(np.abs(actual - wanted).max(initial=0.0)) / (largest or 1.0)
