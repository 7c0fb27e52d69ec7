"""A scan made ready to be timed: compiled, its memory known, before anything runs."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax

from echojax.scan_comparison.problem import Problem
from selective_scan import selective_scan

Pass = Literal["forward", "forward+backward"]
PASSES: tuple[Pass, ...] = ("forward", "forward+backward")

_JAX_NAMES = {
    "u": "u_BxLxE", "delta": "delta_BxLxE", "A": "A_ExN", "B": "B_BxLxN", "C": "C_BxLxN",
    "D": "D_E", "z": "z_BxLxE", "delta_bias": "delta_bias_E",
}  # fmt: skip


class Program(NamedTuple):
    """One implementation, forward or forward and backward, at one shape.

    Attributes:
        run: compute everything, wait for it, and return it by name: "y", and with the backward
            pass the gradients by argument name.
        compile_seconds: tracing and compiling.
        memory: bytes by kind ("arguments", "outputs", "temporary") where the compiler tells.
        expected_bytes: what it will need all in all, as far as is known beforehand.
        as_array: makes a result a JAX or NumPy array.
    """

    run: Callable[[], Mapping[str, Any]]
    compile_seconds: float | None
    memory: dict[str, int]
    expected_bytes: int
    as_array: Callable[[Any], Any] = lambda x: x


def jax_program(implementation: str, problem: Problem, which: Pass) -> Program:
    """Compile an implementation of ``selective_scan``."""

    def forward(arguments: dict[str, jax.Array]) -> jax.Array:
        named = {_JAX_NAMES[name]: x for name, x in arguments.items()}
        return selective_scan(**named, delta_softplus=True, implementation=implementation)  # type: ignore[arg-type, return-value]

    def both(arguments: dict[str, jax.Array], dy: jax.Array) -> dict[str, jax.Array]:
        y, pull_back = jax.vjp(forward, arguments)
        return {"y": y, **pull_back(dy)[0]}

    began = time.perf_counter()
    arrays: tuple[Any, ...] = (problem.arguments, problem.dy)
    if which == "forward":
        arrays = arrays[:1]
        compiled = jax.jit(lambda arguments: {"y": forward(arguments)}).lower(*arrays).compile()
    else:
        compiled = jax.jit(both).lower(*arrays).compile()
    seconds = time.perf_counter() - began
    memory = _memory(compiled)
    expected_bytes = sum(memory.values())
    if implementation == "reference":  # NumPy, unseen by the compiler: float64 states, all kept
        expected_bytes += 8 * problem.shape.elements
    return Program(
        lambda: jax.block_until_ready(compiled(*arrays)), seconds, memory, expected_bytes
    )


def _memory(compiled: Any) -> dict[str, int]:
    """Return the compiled program's memory, nothing where the backend does not tell."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return {}
    return {
        "arguments": int(analysis.argument_size_in_bytes),
        "outputs": int(analysis.output_size_in_bytes),
        "temporary": int(analysis.temp_size_in_bytes),
    }
