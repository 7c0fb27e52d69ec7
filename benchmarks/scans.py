"""Compare the selective scans that run here: python benchmarks/scans.py.

Measures the time forward and with the backward pass, memory, the error against the float64 oracle,
and the share of what the device's copy bandwidth and exponentials allow.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import harness
import jax
import pages
import scan_programs
from harness import Program, Record, Row, log
from scan_programs import ONE_LAUNCH, PASSES, TWO_LAUNCHES, Problem, Roofline, Shape
from tyro.conf import UseAppendAction

from echojax.errors import UserError, unknown_name
from selective_scan import implementations

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Flags:
    """Measure the selective scans that run here beside each other.

    A file that holds a part of the same comparison is continued. A page and pictures are written
    beside it.
    """

    implementations: tuple[str, ...] | None = None
    """Which to measure (all that run here). Only where named: "reference", the oracle; "both
    directions", a layer's two scans in one call, and "two directions", one after the other."""
    shape: Annotated[tuple[str, ...], UseAppendAction] = ()
    """A size to measure, as B,L,E,N; may be given again (a grid that suits the device)."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] | None = None
    """Of u, delta, z, B and C; the rest is float32 (both, or float32 with --quick)."""
    against: Literal["torch"] | None = None
    """Measure a PyTorch loop too, and the CUDA scan of mamba_ssm where it is installed."""
    out: Path | None = None
    """The JSON file (runs/scans-DATE-TIME.json)."""
    quick: bool = False
    """A small grid and short timings: well under a minute on one core."""
    seconds: float | None = None
    """Time to spend on the repeats of each timed program (1, or 0.1 with --quick)."""
    max_memory_gib: float | None = None
    """Skip what needs more memory (80 % of what is free)."""
    time_limit: float | None = None
    """Begin nothing more after so many seconds; the same command then continues."""


@dataclass(frozen=True)
class Settings:
    """What makes two comparisons the same one."""

    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...]
    implementations: tuple[str, ...]
    seconds: float
    max_memory_gib: float | None


# Base shape, a sweep over length, a sweep over batch.
_QUICK = [(8, 16, 64, 16), (8, 4, 64, 16), (2, 16, 64, 16)]
_CPU = [
    (128, 50, 128, 32),
    *((4, length, 64, 16) for length in (64, 256, 1024, 4096)),
    *((batch, 50, 128, 32) for batch in (2, 8, 32)),
]
_ACCELERATOR = [
    (2048, 50, 128, 32),
    (2048, 200, 128, 32),
    (8, 16384, 2048, 16),
    *((8, length, 1024, 16) for length in (256, 1024, 4096, 16384)),
    *((batch, 50, 128, 32) for batch in (8, 32, 128, 512)),
]


def resolved(flags: Flags, here: dict[str, str | None], others: list[str], cpu: bool) -> Settings:
    """Return the settings that the flags and this device give.

    Args:
        flags: the command line.
        here: ``selective_scan.implementations()``.
        others: scans by others that are compared too.
        cpu: whether the device is a CPU.

    Raises:
        UserError: a flag's value is of no use.
    """
    grid = _QUICK if flags.quick else _CPU if cpu else _ACCELERATOR
    shapes = [_shape(text) for text in flags.shape] or [Shape(*sizes) for sizes in grid]
    names = [name for name, reason in here.items() if reason is None and name != "reference"]
    if flags.implementations:
        known: dict[str, str | None] = {**here, ONE_LAUNCH: None, TWO_LAUNCHES: None}
        for name in flags.implementations:
            if name not in known:
                raise unknown_name("implementation in --implementations", name, list(known))
            if known[name] is not None:
                raise UserError(f"--implementations: {name} cannot run here: {known[name]}")
        names = [name for name in known if name in flags.implementations]
    seconds = flags.seconds if flags.seconds is not None else 0.1 if flags.quick else 1.0
    harness.check_positive(seconds=seconds, max_memory_gib=flags.max_memory_gib)
    dtypes = flags.dtypes or (DTYPES[:1] if flags.quick else DTYPES)
    return Settings(
        tuple(dict.fromkeys(shapes)), tuple(dict.fromkeys(dtypes)), (*names, *others), seconds,
        flags.max_memory_gib,
    )  # fmt: skip


def _shape(text: str) -> Shape:
    parts = text.split(",")
    if len(parts) != 4 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        raise UserError(
            f"--shape {text!r} is not B,L,E,N: four whole numbers above 0, as 128,50,128,32"
        )
    return Shape(*map(int, parts))


def compare(flags: Flags) -> None:
    """Measure what is missing, size by size, and write the page."""
    others = scan_programs.torch_scans() if flags.against else []
    if flags.against and not others:
        raise UserError(
            "--against torch needs PyTorch or mamba_ssm, and neither is installed; "
            "install torch, or leave --against out"
        )
    if others:  # PyTorch needs memory of the same GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    here = implementations()
    settings = resolved(flags, here, others, jax.default_backend() == "cpu")
    record = Record(
        flags.out or harness.default_path("scans"), harness.command_of("scans.py", flags), settings,
        others=others, time_limit=flags.time_limit,
    )  # fmt: skip
    facts = record.document.facts
    facts["not here"] = {name: reason for name, reason in here.items() if reason is not None}
    cases: list[Row] = [
        shape._asdict() | {"dtype": d} for shape in settings.shapes for d in settings.dtypes
    ]
    try:
        with record:
            if "roofline" not in facts:
                facts["roofline"] = scan_programs.measure_roofline()._asdict()
            for case in record.missing(cases):
                record.add(*measure(case, settings, Roofline(**facts["roofline"]), record))
                log.info(pages.table(HEADINGS, cells_of(record.of(case))))
                log.info("\n".join([*notes_of(record.of(case)), ""]))
    finally:
        if rows := record.document.rows:
            record.write_page(
                "Selective scans compared", *page_parts(rows), pictures=pictures(rows)
            )


def measure(case: Row, settings: Settings, roofline: Roofline, record: Record) -> list[Row]:
    """Return a row for each implementation and pass; one that fails is recorded, never raised."""
    shape = Shape(*(case[name] for name in Shape._fields))
    rows: list[Row] = [
        case | {"implementation": name, "pass": which, "status": "measured", "reason": None}
        | dict.fromkeys(_MEASURED)
        for name in settings.implementations
        for which in PASSES
    ]  # fmt: skip
    try:
        harness.check_memory(
            scan_programs.input_bytes(shape, case["dtype"]), settings.max_memory_gib
        )
        problem = scan_programs.make_problem(shape, case["dtype"])
        wanted = problem.expected()
    except Exception as failure:
        return [row | harness.not_measured(failure) for row in rows]
    ready: list[tuple[Row, Program]] = []
    for row in rows:
        try:
            record.check_time()
            ready.append((row, _prepare(row, problem, wanted, settings.max_memory_gib)))
        except Exception as failure:
            row |= harness.not_measured(failure)
    timed = harness.time_in_turns([program for _, program in ready], settings.seconds)
    for (row, _), samples in zip(ready, timed, strict=True):
        row |= samples.row()
        if row["status"] == "measured":
            seconds = device_seconds(row)
            row["ns_per_element"] = 1e9 * seconds / shape.elements
            row["floor_seconds"] = roofline.floor_seconds(shape, case["dtype"], row["pass"])
            row["floor_share"] = row["floor_seconds"] / seconds
    return rows


def device_seconds(row: Row) -> float:
    """Return the time of a call in a queue where it was measured, else of a call alone."""
    return float(row.get("queued_seconds") or row["median_seconds"])


_MEASURED = (
    "median_seconds", "min_seconds", "repeats", "compile_seconds", "memory_bytes", "memory",
    "device_peak_bytes", "ns_per_element", "floor_seconds", "floor_share", "errors",
)  # fmt: skip


def _prepare(row: Row, problem: Problem, wanted: Row, max_memory_gib: float | None) -> Program:
    """Compile a program and run it for the first time, if it has room; record what that tells."""
    name, which = row["implementation"], row["pass"]
    program, needed = scan_programs.make_program(name, problem, which)
    row["compile_seconds"] = program.compile_seconds
    row["memory"], row["memory_bytes"] = program.memory or None, program.memory_bytes
    harness.check_memory(needed, max_memory_gib)
    before = harness.device_peak_bytes()
    results = program.run()
    # The device tells the highest use ever: it is this program's only where it has risen.
    if (peak := harness.device_peak_bytes()) > before:
        row["device_peak_bytes"] = peak
    if name not in (ONE_LAUNCH, TWO_LAUNCHES):
        errors = {
            key: scan_programs.error(problem.cut(key, scan_programs.as_array(x)), wanted[key])
            for key, x in results.items()
        }
        if wrong := ", ".join(key for key, value in errors.items() if not math.isfinite(value)):
            raise ArithmeticError(f"not finite: {wrong}")
        row["errors"] = errors
    return program


HEADINGS = (
    "", "forward ms", "ns each", "of floor", "with backward ms", "ns each", "of floor", "MiB",
    "compile s", "value error", "gradient error",
)  # fmt: skip
_METHOD = (
    "Times are medians of runs of compiled programs until their results are there, on an "
    "accelerator of a call in a queue; all programs of one size take turns. ns each is the time "
    "over B·L·E·N. MiB are the compiled program's arguments, outputs and temporary arrays. Errors "
    "are the largest absolute difference from a float64 oracle over the largest absolute expected "
    "value, on a few evenly spread batch entries and channels of the very program that is timed, "
    "at whole length; the gradient error is the worst over all arguments. Memory, compile time and "
    "errors are of the program with the backward pass."
)


def cells_of(rows: Sequence[Row]) -> list[list[str]]:
    """Return a line an implementation: its name and what ``HEADINGS`` names."""
    lines = []
    for name in dict.fromkeys(row["implementation"] for row in rows):
        own: dict[str, Row] = {row["pass"]: row for row in rows if row["implementation"] == name}
        line = [name]
        for row in (own[which] for which in PASSES):
            if row["status"] != "measured":
                line += [row["status"], "–", "–"]
                continue
            seconds = device_seconds(row)
            share = f"{pages.digits(100 * row['floor_share'])} %"
            line += [pages.digits(1e3 * seconds), pages.digits(row["ns_per_element"]), share]
        row = own["forward+backward"]
        errors = dict(row["errors"] or {})
        value = errors.pop("y", None)
        line += [pages.digits(row["memory_bytes"] and row["memory_bytes"] / 2**20)]
        line += [pages.digits(row["compile_seconds"])]
        line += [
            "–" if x is None else f"{x:.1e}" for x in (value, max(errors.values(), default=None))
        ]
        lines.append(line)
    return lines


def notes_of(rows: Sequence[Row]) -> list[str]:
    """Return why programs have no times, one a line."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "measured":
            key = f"{row['implementation']}: {row['status']}: {row['reason']}"
            notes.setdefault(key, []).append(row["pass"])
    return [f"{note} ({', '.join(passes)})" for note, passes in notes.items()]


def page_parts(rows: Sequence[Row]) -> list[str]:
    """Return the tables of a comparison, a size and dtype each, and how they were measured."""
    parts = []
    keys = (*Shape._fields, "dtype")
    for case in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        own = [row for row in rows if tuple(row[key] for key in keys) == case]
        parts.append("## B {}, L {}, E {}, N {}, {}".format(*case))
        parts += [pages.table(HEADINGS, cells_of(own)), *notes_of(own)]
    return [*parts, _METHOD, scan_programs.FORMULA]


def pictures(rows: Sequence[Row]) -> dict[str, bytes | None]:
    """Return time and memory against length and against batch, where sizes allow."""
    return {f"against-{axis}": _picture(rows, axis) for axis in ("length", "batch")}


def sweep(rows: Sequence[Row], axis: str) -> list[Row]:
    """Return the rows whose shapes differ only in one size, of the most values of it."""
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in Shape._fields if k != axis), []).append(row)
    return max(groups.values(), key=lambda group: len({row[axis] for row in group}), default=[])


def _picture(rows: Sequence[Row], axis: str) -> bytes | None:
    swept = sweep([row for row in rows if row["status"] == "measured"], axis)
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    panels = []
    for dtype in dict.fromkeys(row["dtype"] for row in swept):
        for which, key, unit in (
            (PASSES[0], "median_seconds", 1e3), (PASSES[1], "median_seconds", 1e3),
            (PASSES[1], "memory_bytes", 2**-20),
        ):  # fmt: skip
            shown = [row for row in swept if (row["dtype"], row["pass"]) == (dtype, which)]
            lines: dict[str, Any] = {
                name: [
                    (r[axis], unit * r[key])
                    for r in shown
                    if r["implementation"] == name and r[key]
                ]
                for name in names
            }
            if key == "median_seconds":
                lines["floor*"] = list({(r[axis], unit * r["floor_seconds"]) for r in shown})
            lines = {label: line for label, line in lines.items() if line}
            unit_name = "ms" if key == "median_seconds" else "MiB"
            panels.append(pages.Panel(f"{which}, {dtype}, {unit_name}", axis, unit_name, lines))
    return pages.figure(panels, columns=3)


if __name__ == "__main__":
    harness.run(Flags, compare)
