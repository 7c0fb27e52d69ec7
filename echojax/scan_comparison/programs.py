"""A scan made ready to be timed: compiled, its memory known, before anything runs."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax

from echojax.scan_comparison.memory import check_memory, device_peak_bytes
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
        start: puts one call on the device's queue and returns its results by name: "y", and with
            the backward pass the gradients by argument name.
        wait: returns when results are there.
        compile_seconds: tracing and compiling; ``None`` where nothing is compiled.
        memory: bytes by kind ("arguments", "outputs", "temporary") where the compiler tells.
        expected_bytes: what it will need all in all, as far as is known beforehand.
        as_array: makes a result a JAX or NumPy array.
    """

    start: Callable[[], Mapping[str, Any]]
    wait: Callable[[Any], Any]
    compile_seconds: float | None
    memory: dict[str, int]
    expected_bytes: int
    as_array: Callable[[Any], Any] = lambda x: x

    def run(self) -> Mapping[str, Any]:
        """Start a call, wait for it and return its results."""
        results = self.start()
        self.wait(results)
        return results


def run_first(program: Program, budget: int | None) -> tuple[Mapping[str, Any], int | None]:
    """Return a program's results and the most bytes that it had on the device, where that is known.

    Raises:
        Skipped: it needs more than ``budget`` bytes.
    """
    check_memory(program.expected_bytes, budget)
    before = device_peak_bytes()
    results = program.run()
    peak = device_peak_bytes()
    # The device tells the highest use ever: it is this program's only where it has risen.
    risen = peak is not None and before is not None and peak > before
    return results, peak if risen else None


def scan_program(implementation: str, problem: Problem, which: Pass) -> Program:
    """Compile an implementation of ``selective_scan``."""

    def scan(arguments: dict[str, jax.Array]) -> jax.Array:
        named = {_JAX_NAMES[name]: x for name, x in arguments.items()}
        return selective_scan(**named, delta_softplus=True, implementation=implementation)  # type: ignore[arg-type, return-value]

    program = jax_program(scan, problem.arguments, problem.dy, which)
    if implementation != "reference":
        return program
    # NumPy, unseen by the compiler: float64 states, all kept.
    return program._replace(expected_bytes=program.expected_bytes + 8 * problem.shape.elements)


def jax_program(
    function: Callable[[dict[str, jax.Array]], Any],
    arguments: dict[str, jax.Array],
    dy: Any,
    which: Pass,
) -> Program:
    """Compile ``function(arguments) -> y``, with its gradients where asked for.

    Args:
        function: a scan, or several.
        arguments: by name.
        dy: weights of y, as a pytree of the same structure.
        which: the pass.
    """

    def both(arguments: dict[str, jax.Array], dy: Any) -> dict[str, Any]:
        y, pull_back = jax.vjp(function, arguments)
        return {"y": y, **pull_back(dy)[0]}

    began = time.perf_counter()
    arrays: tuple[Any, ...] = (arguments, dy)
    if which == "forward":
        arrays = (arguments,)
        compiled = jax.jit(lambda arguments: {"y": function(arguments)}).lower(*arrays).compile()
    else:
        compiled = jax.jit(both).lower(*arrays).compile()
    seconds = time.perf_counter() - began
    memory = _memory(compiled)
    return Program(
        lambda: compiled(*arrays), jax.block_until_ready, seconds, memory, sum(memory.values())
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
