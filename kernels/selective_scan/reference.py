"""The oracle of the tests: a loop over time in NumPy and float64, with hand-written gradients."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax import Array

from selective_scan.arguments import Recurrence, ScanInputs, varying_alike
from selective_scan.missing_derivatives import differentiable_once

Arrays = dict[str, np.ndarray]


def selective_scan_reference(
    u: np.ndarray,
    delta: np.ndarray,
    A: np.ndarray,
    B: np.ndarray,
    C: np.ndarray,
    D: np.ndarray | None = None,
    z: np.ndarray | None = None,
    delta_bias: np.ndarray | None = None,
    *,
    delta_softplus: bool = False,
    initial_state: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    segment_ids: np.ndarray | None = None,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return y (B, L, E) and the last state (B, E, N), in float64.

    The arguments are those of ``selective_scan``, as arrays of NumPy.
    """
    given: Any = (u, delta, A, B, C, D, z, delta_bias, initial_state, lengths, segment_ids)
    run = _run(ScanInputs(*given), delta_softplus, reverse)
    return run.y, run.last_state


def selective_scan_gradients(
    dy: np.ndarray, dlast: np.ndarray, *arrays: np.ndarray | None, **options: Any
) -> Arrays:
    """Return the gradients of ``sum(y * dy) + sum(last_state * dlast)``, in float64.

    Args:
        dy: gradient of y, (B, L, E).
        dlast: gradient of the last state, (B, E, N).
        arrays: the arrays of ``selective_scan_reference``, in its order.
        options: its other arguments, by name.

    Returns:
        The gradients by argument name. Optional arrays that were not given have none, except
        ``initial_state``.
    """
    given: Any = arrays
    softplus, reverse = options.pop("delta_softplus", False), options.pop("reverse", False)
    run = _run(ScanInputs(*given, **options), softplus, reverse)
    u, A, B, C = run.u, run.A, run.B, run.C
    channels = u.shape[2]
    dy = np.where(run.valid, np.asarray(dy, np.float64), 0)
    grads: Arrays = {}
    dread = dy
    if run.z is not None:
        gate = 1 / (1 + np.exp(-run.z))
        grads["z"] = dy * run.ungated * gate * (1 + run.z * (1 - gate))
        dread = dy * run.z * gate
    du, dt = np.zeros_like(u), np.zeros_like(u)
    if run.D is not None:
        du += dread * run.D
        grads["D"] = np.sum(dread * u, axis=(0, 1))
    dA, dB, dC = np.zeros_like(A), np.zeros_like(B), np.zeros_like(C)
    dh = np.array(dlast, np.float64)  # of the state after the position
    for position in reversed(run.order):
        t, before, after = run.dt[:, position], run.before[position], run.after[position]
        _add(dC, position, dread[:, position, :, None] * after)
        dh = dh + dread[:, position, :, None] * _at(C, position, channels)
        decay = np.exp(t[..., None] * A)
        through = dh * before * decay
        into = np.sum(dh * _at(B, position, channels), axis=2)
        dt[:, position] = np.sum(through * A, axis=2) + into * u[:, position]
        dA += np.sum(through * t[..., None], axis=0)
        du[:, position] += into * t
        _add(dB, position, dh * (t * u[:, position])[..., None])
        dh = np.where(run.starts[position], 0, dh * decay)
    dt = np.where(run.valid, dt, 0)
    if softplus:
        dt = dt / (1 + np.exp(-run.raw))
    grads |= {"u": du, "delta": dt, "A": dA, "B": dB, "C": dC, "initial_state": dh}
    if run.delta_bias is not None:
        grads["delta_bias"] = np.sum(dt, axis=(0, 1))
    return grads


def _run(inputs: Any, delta_softplus: bool, reverse: bool) -> SimpleNamespace:
    """Run the loop and keep everything that the gradients need."""
    *arrays, lengths, segment_ids = inputs
    exact: Any = [x if x is None else np.asarray(x, np.float64) for x in arrays]
    u, delta, A, B, C, D, z, delta_bias, initial_state = exact
    batch, length, channels = u.shape
    raw = delta if delta_bias is None else delta + delta_bias
    dt = np.logaddexp(raw, 0) if delta_softplus else raw
    valid = np.ones((batch, length, 1), bool)
    if lengths is not None:
        valid = (np.arange(length) < np.asarray(lengths)[:, None])[..., None]
    dt = np.where(valid, dt, 0)
    h = np.zeros((batch, channels, A.shape[1]))
    if initial_state is not None:
        h = h + initial_state
    order = list(range(length))[::-1] if reverse else list(range(length))
    read, before, after, starts = np.zeros_like(u), {}, {}, {}
    for position, previous in zip(order, [None, *order[:-1]], strict=True):
        starts[position] = np.zeros((batch, 1, 1), bool)
        if segment_ids is not None and previous is not None:
            ids = np.asarray(segment_ids)
            inside = valid[:, position, 0] & valid[:, previous, 0]
            starts[position][:, 0, 0] = inside & (ids[:, position] != ids[:, previous])
        h = np.where(starts[position], 0, h)
        before[position] = h
        enter = (dt[:, position] * u[:, position])[..., None] * _at(B, position, channels)
        h = np.exp(dt[:, position, :, None] * A) * h + enter
        after[position] = h
        read[:, position] = np.sum(h * _at(C, position, channels), axis=2)
    ungated = read if D is None else read + D * u
    y = ungated if z is None else ungated * z / (1 + np.exp(-z))
    return SimpleNamespace(
        u=u,
        A=A,
        B=B,
        C=C,
        D=D,
        z=z,
        delta_bias=delta_bias,
        raw=raw,
        dt=dt,
        valid=valid,
        order=order,
        before=before,
        after=after,
        starts=starts,
        ungated=ungated,
        y=np.where(valid, y, 0),
        last_state=h,
    )


def _at(x: np.ndarray, position: int, channels: int) -> np.ndarray:
    """Return B or C at a position, (B, E, N), with a size of 1 for an axis that it lacks."""
    if x.ndim == 2:
        return x[None]
    if x.ndim == 3:
        return x[:, position, None]
    return np.repeat(x[:, position], channels // x.shape[2], axis=1)


def _add(grad: np.ndarray, position: int, x: np.ndarray) -> None:
    """Add the gradient at a position, (B, E, N), to that of B or C: the transpose of ``_at``."""
    if grad.ndim == 2:
        grad += x.sum(0)
    elif grad.ndim == 3:
        grad[:, position] = x.sum(1)
    else:
        batch, _, groups, states = grad.shape
        grad[:, position] = x.reshape(batch, groups, -1, states).sum(2)


def scan(inputs: Recurrence, *, reverse: bool) -> tuple[Array, Array]:
    """Call the oracle from JAX.

    Return C . h at every position, (B, L, E), and the last state, (B, E, N), in the inputs' dtype.

    Raises:
        TypeError: forward-mode or second derivatives are taken.
    """
    return _scan(inputs, reverse)


def _forward(inputs: Recurrence, reverse: bool, *, keep: bool) -> tuple[tuple[Array, Array], None]:
    def call(*args: np.ndarray) -> tuple[np.ndarray, ...]:
        *arrays, h = args
        results = selective_scan_reference(*arrays, initial_state=h, reverse=reverse)
        return tuple(x.astype(h.dtype) for x in results)

    like = (inputs.u, inputs.state)
    results = jax.pure_callback(call, like, *inputs, vmap_method="sequential")
    y, last, _ = varying_alike(*results, inputs.u)
    return (y, last), None


def _backward(inputs: Recurrence, kept: None, outer: Any, reverse: bool) -> Recurrence:
    def call(*args: np.ndarray) -> tuple[np.ndarray, ...]:
        dy, dlast, *arrays, h = args
        grads = selective_scan_gradients(dy, dlast, *arrays, initial_state=h, reverse=reverse)
        names = ("u", "delta", "A", "B", "C", "initial_state")
        return tuple(grads[name].astype(dy.dtype) for name in names)

    like = tuple(inputs)
    grads = jax.pure_callback(call, like, *outer, *inputs, vmap_method="sequential")
    *grads, _ = varying_alike(*grads, inputs.u)
    return Recurrence(*grads)


_scan = differentiable_once("reference", _forward, _backward)
