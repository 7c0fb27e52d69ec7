"""The oracle: a plain loop over time in NumPy, float64, with hand-written gradients."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from selective_scan.missing_derivatives import first_derivatives_only, no_forward_mode

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
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(y, last_state)``; arguments as for ``selective_scan``, everything in float64."""
    run = _run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, lengths, reverse)
    return run["y"], run["last_state"]


def selective_scan_gradients(
    dy: np.ndarray,
    dlast: np.ndarray,
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
    reverse: bool = False,
) -> Arrays:
    """Return the gradients of ``sum(y * dy) + sum(last_state * dlast)`` by argument name.

    Optional arguments that were not given have none, except ``initial_state``.
    """
    run = _run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, lengths, reverse)
    u, A, B, C = run["u"], run["A"], run["B"], run["C"]
    dy = np.where(run["visited"], np.asarray(dy, np.float64), 0)
    grads: Arrays = {}
    dread = dy
    if z is not None:
        gate = 1 / (1 + np.exp(-run["z"]))
        grads["z"] = dy * run["ungated"] * gate * (1 + run["z"] * (1 - gate))
        dread = dy * run["z"] * gate
    du, dt = np.zeros_like(u), np.zeros_like(u)
    if D is not None:
        du += dread * np.asarray(D, np.float64)
        grads["D"] = np.sum(dread * u, axis=(0, 1))
    dA, dB, dC = np.zeros_like(A), np.zeros_like(B), np.zeros_like(C)
    dh = np.array(dlast, np.float64)  # of the state behind the position
    for position in reversed(run["order"]):
        t, before, after = run["t"][:, position], run["before"][position], run["after"][position]
        dC[:, position] = np.einsum("be,ben->bn", dread[:, position], after)
        dh = dh + dread[:, position, :, None] * C[:, position, None]
        decay = np.exp(t[..., None] * A)
        through = dh * before * decay
        into = np.einsum("ben,bn->be", dh, B[:, position])
        dt[:, position] = np.sum(through * A, axis=2) + into * u[:, position]
        dA += np.sum(through * t[..., None], axis=0)
        du[:, position] += into * t
        dB[:, position] = np.einsum("ben,be->bn", dh, t * u[:, position])
        dh = dh * decay
    dt = np.where(run["visited"], dt, 0)
    if delta_softplus:
        dt = dt / (1 + np.exp(-run["raw"]))
    grads |= {"u": du, "delta": dt, "A": dA, "B": dB, "C": dC, "initial_state": dh}
    if delta_bias is not None:
        grads["delta_bias"] = np.sum(dt, axis=(0, 1))
    return grads


def _run(
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    delta_bias: Any,
    delta_softplus: bool,
    initial_state: Any,
    lengths: Any,
    reverse: bool,
) -> dict[str, Any]:
    """Run the loop and keep everything that the gradients need."""
    u, delta, A, B, C = (np.asarray(x, np.float64) for x in (u, delta, A, B, C))
    batch, length, channels = u.shape
    raw = delta if delta_bias is None else delta + np.asarray(delta_bias, np.float64)
    t = np.logaddexp(raw, 0) if delta_softplus else raw
    visited = np.ones((batch, length, 1), bool)
    if lengths is not None:
        visited = (np.arange(length) < np.asarray(lengths)[:, None])[..., None]
    t = np.where(visited, t, 0)
    h = np.zeros((batch, channels, A.shape[1]))
    if initial_state is not None:
        h = h + np.asarray(initial_state, np.float64)
    order = list(range(length))[::-1] if reverse else list(range(length))
    read, before, after = np.zeros_like(u), {}, {}
    for position in order:
        before[position] = h
        enter = (t[:, position] * u[:, position])[..., None] * B[:, position, None]
        h = np.exp(t[:, position, :, None] * A) * h + enter
        after[position] = h
        read[:, position] = np.einsum("ben,bn->be", h, C[:, position])
    ungated = read if D is None else read + np.asarray(D, np.float64) * u
    y = ungated
    if z is not None:
        z = np.asarray(z, np.float64)
        y = ungated * z / (1 + np.exp(-z))
    return {
        "u": u,
        "A": A,
        "B": B,
        "C": C,
        "z": z,
        "raw": raw,
        "t": t,
        "visited": visited,
        "order": order,
        "before": before,
        "after": after,
        "ungated": ungated,
        "y": np.where(visited, y, 0),
        "last_state": h,
    }


def scan(
    u_BxLxE: Array,
    t_BxLxE: Array,
    A_ExN: Array,
    B_BxLxN: Array,
    C_BxLxN: Array,
    state_BxExN: Array,
    *,
    reverse: bool,
) -> tuple[Array, Array]:
    """Call the oracle from JAX: C . h at every position and the last state, in ``t``'s dtype."""
    inputs = (u_BxLxE, t_BxLxE, A_ExN, B_BxLxN, C_BxLxN, state_BxExN)
    return _scan(*no_forward_mode("reference", inputs), reverse)


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _scan(
    u: Array, t: Array, A: Array, B: Array, C: Array, h: Array, reverse: bool
) -> tuple[Array, Array]:
    def call(*args: np.ndarray) -> tuple[np.ndarray, ...]:
        *inputs, h = args
        results = selective_scan_reference(*inputs, initial_state=h, reverse=reverse)
        return tuple(x.astype(t.dtype) for x in results)

    return jax.pure_callback(call, (u, h), u, t, A, B, C, h, vmap_method="sequential")


def _scan_forward(
    u: Array, t: Array, A: Array, B: Array, C: Array, h: Array, reverse: bool
) -> tuple[Any, Any]:
    inputs = first_derivatives_only("reference", (u, t, A, B, C, h))
    return _scan(*inputs, reverse), inputs


def _scan_backward(reverse: bool, inputs: Any, outer: Any) -> Any:
    def call(*args: np.ndarray) -> tuple[np.ndarray, ...]:
        dy, dlast, *inputs, h = args
        grads = selective_scan_gradients(dy, dlast, *inputs, initial_state=h, reverse=reverse)
        names = ("u", "delta", "A", "B", "C", "initial_state")
        return tuple(grads[name].astype(dy.dtype) for name in names)

    outer = first_derivatives_only("reference", outer)
    return jax.pure_callback(call, inputs, *outer, *inputs, vmap_method="sequential")


_scan.defvjp(_scan_forward, _scan_backward)
