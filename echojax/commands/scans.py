"""Compare the selective scans on this device."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from echojax.command_line import logged_terminal, parse
from echojax.errors import OutOfMemoryError, memory_failure_is_user_error
from echojax.flags import NotNegativeNumber, Positive

if TYPE_CHECKING:
    import jax

Arrays = dict[str, "jax.Array"]  # by the oracle's names


@dataclass(frozen=True)
class Flags:
    """Say which selective scans run on this device, how fast, and how far they are from the oracle.

    Each scan is measured on one size, after another; benchmarks/scans.py of the repository measures
    them in turns on a grid of sizes, with their memory, and writes a page.
    """

    batch: Positive = 64
    """B, sequences."""
    length: Positive = 50
    """L, positions."""
    channels: Positive = 128
    """E, channels."""
    states: Positive = 16
    """N, states a channel."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of inputs, B and C; A is float32."""
    seconds: NotNegativeNumber = 0.5
    """How long each program is repeated, at least three times."""


def main(words: list[str]) -> None:
    """Run the command."""
    flags = parse(Flags, args=words)
    from echojax.machine import device_name
    from selective_scan import implementations

    console = logged_terminal()
    console.print(device_name())
    inputs = _inputs(flags)
    expected = _expected(inputs)
    table = Table("scan", box=None, pad_edge=False)
    for title in ("forward", "with backward", "error of y"):
        table.add_column(title, justify="right")
    for name, reason in implementations().items():
        if name == "reference":  # the oracle itself
            continue
        if reason is not None:
            console.print(f"{name} cannot run here: {reason}")
            continue
        with console.status(f"{name} ..."):
            table.add_row(name, *_measured(name, inputs, expected, flags.seconds))
    console.print(table)


def _inputs(flags: Flags) -> Arrays:
    """Return random inputs as a Mamba layer has them: time steps near 0.01, A = -1 ... -N."""
    import jax
    import jax.numpy as jnp

    B, L, E, N = flags.batch, flags.length, flags.channels, flags.states
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"u": (B, L, E), "delta": (B, L, E), "B": (B, L, N), "C": (B, L, N)}
    drawn = {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    drawn["delta"] -= 4.6
    cast = {name: x.astype(flags.dtype) for name, x in drawn.items()}
    return cast | {"A": -jnp.tile(jnp.arange(1.0, N + 1), (E, 1))}


def _expected(inputs: Arrays) -> Any:
    """Return the oracle's y (1, L, E), float64, for the first sequence: it is a loop in Python."""
    import numpy as np

    from selective_scan import selective_scan_reference

    first = {name: x if name == "A" else x[:1] for name, x in inputs.items()}
    cut: dict[str, Any] = {name: np.asarray(x).astype(np.float64) for name, x in first.items()}
    return selective_scan_reference(**cut, delta_softplus=True)[0]


def _measured(name: str, inputs: Arrays, expected: Any, seconds: float) -> list[str]:
    """Return a scan's milliseconds forward and with the backward pass, and its error."""
    import jax
    import numpy as np

    from selective_scan import selective_scan

    def scan(inputs: Arrays) -> Any:
        u, delta, A, B, C = (inputs[key] for key in ("u", "delta", "A", "B", "C"))
        return selective_scan(u, delta, A, B, C, delta_softplus=True, implementation=name)

    forward = jax.jit(scan)
    both = jax.jit(jax.grad(lambda inputs: scan(inputs).astype("float32").sum()))
    try:
        with memory_failure_is_user_error():
            y = np.asarray(forward(inputs)[:1]).astype(np.float64)
            taken = [_median(run, inputs, seconds) for run in (forward, both)]
    except OutOfMemoryError:
        return ["out of memory", "", ""]
    difference = np.abs(y - expected).max() / np.abs(expected).max()
    return [*(f"{1000 * one:.3g} ms" for one in taken), f"{difference:.1e}"]


def _median(call: Callable[..., Any], inputs: Any, seconds: float) -> float:
    """Return the median seconds of a call, once compiled."""
    import jax

    jax.block_until_ready(call(inputs))
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        began = time.perf_counter()
        jax.block_until_ready(call(inputs))
        taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2]
