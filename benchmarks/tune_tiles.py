"""Which tiles of "tiled" are best on a CPU? python benchmarks/tune_tiles.py --cores 1.

All choices for a size take turns in one process, so their ratios are meaningful even if the machine
does other work.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import harness
from echojax.errors import UserError
from echojax.flags import PositiveNumber
from harness import Program, Row, log
from scan_problems import ORDER, Arrays, Shape, make_problem
from scan_programs import PASSES, jax_program, run_scan
from selective_scan import readout, selective_scan_readout, tiled

_SIZES = {
    "read-out": [(128, 50, 128, 32), (128, 200, 64, 32), (512, 50, 64, 16)],
    "scan": [(128, 50, 128, 32), (8, 1024, 256, 16), (4, 4096, 64, 16), (2, 50, 128, 32)],
}
_TINY = (4, 9, 5, 3)
PRESENT = "as it is"


@dataclass(frozen=True)
class Flags(harness.Flags):
    """Compare tiles of other sizes with the present ones, in about six minutes."""

    cores: int | None = None
    """CPU cores to use (all)."""
    seconds: PositiveNumber = 3.0
    """Time to spend on each program."""
    dry_run: bool = False
    """Try a tiny size, for a short time."""


def choices(what: str) -> dict[str, Any]:
    """Return the values to try in place of the present one, by name, with the present one first."""
    if what == "read-out":
        return {
            PRESENT: readout._TILE_ELEMENTS,
            **{f"{2**k:,} elements": 2**k for k in (12, 13, 15, 16)},
        }

    def by_state(kib: int, channels: int, states: int) -> int:
        return max(1, kib * 1024 // (4 * channels * states))

    return {
        PRESENT: tiled.tile_rows,
        **{f"{kib} KiB of state": partial(by_state, kib) for kib in (32, 64, 128)},
    }


@contextmanager
def taken(what: str, choice: Any) -> Iterator[None]:
    """Use this choice of tiles in the programs that are compiled inside the context."""
    module, name = (readout, "_TILE_ELEMENTS") if what == "read-out" else (tiled, "tile_rows")
    jax.clear_caches()
    present = getattr(module, name)
    setattr(module, name, choice)
    try:
        yield
    finally:
        setattr(module, name, present)


def read(arrays: Arrays) -> jax.Array:
    """Return the read-out of a problem's arguments."""
    u, delta, A, B, C, _, _, bias = (arrays[name] for name in ORDER)
    options: dict[str, Any] = {"delta_softplus": True, "implementation": "tiled"}
    return selective_scan_readout(u, delta, A, B, C[:, -1], delta_bias=bias, **options)


def measure(case: Row, seconds: float) -> list[Row]:
    """Return a row for each choice and pass: times, and the largest difference from the present."""
    problem = make_problem(Shape(*(case[name] for name in Shape._fields)), "float32")
    run: Callable[[Arrays], jax.Array] = partial(run_scan, "tiled")
    dy = problem.dy
    if case["what"] == "read-out":
        run, dy = read, dy[:, -1]
    rows: list[Row] = []
    programs: list[Program] = []
    present: dict[str, list[jax.Array]] = {}
    for name, choice in choices(case["what"]).items():
        for which in PASSES:
            with taken(case["what"], choice):
                program = jax_program(run, problem.arguments, dy, which)
            results = jax.tree.leaves(program.run())
            off = max(
                float(jnp.max(jnp.abs(x - wanted)) / jnp.max(jnp.abs(wanted)).clip(1e-30))
                for x, wanted in zip(results, present.setdefault(which, results), strict=True)
            )
            if not off < 1e-5:
                raise UserError(f"{harness.title(case)}, {name}: {which} is off by {off:.1e}")
            programs.append(program)
            rows.append(case | {"choice": name, "pass": which, "difference": off})
    for row, samples in zip(rows, harness.time_in_turns(programs, seconds), strict=True):
        row |= samples.row()
    return rows


def main(flags: Flags) -> None:
    """Measure the cases that have no row yet; print each choice's time over the present one's."""
    harness.use_cores(flags.cores)
    if jax.default_backend() != "cpu":
        raise UserError("only the CPU has tiles; run this with JAX_PLATFORMS=cpu")
    sizes = {what: [_TINY] for what in _SIZES} if flags.dry_run else _SIZES
    cases: list[Row] = [
        {"what": what} | Shape(*size)._asdict() for what in sizes for size in sizes[what]
    ]
    with harness.record_of("tune_tiles", flags) as record:
        for case in record.missing(cases):
            record.add(*measure(case, 0.01 if flags.dry_run else flags.seconds))
            log.info("\n".join([harness.title(case), *ratios(record.of(case))]))


def ratios(rows: list[Row]) -> list[str]:
    """Return a line for each choice, with its median time over the present one's for each pass."""
    present = {row["pass"]: row for row in rows if row["choice"] == PRESENT}
    times = {
        (row["choice"], row["pass"]): row["median_seconds"] / present[row["pass"]]["median_seconds"]
        for row in rows
    }
    names = dict.fromkeys(row["choice"] for row in rows)
    return [
        f"  {name}: " + ", ".join(f"{which} {times[name, which]:.3f}" for which in PASSES)
        for name in names
    ]


if __name__ == "__main__":
    harness.run(Flags, main)
