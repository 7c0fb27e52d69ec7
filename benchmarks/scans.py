"""Compare the selective scans that run here: python benchmarks/scans.py.

Measures the time forward and with the backward pass, memory, the error against the float64 oracle,
and the share of what the device's copy bandwidth and exponentials allow.
"""

import math
import os
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import jax
from tyro.conf import UseAppendAction

import harness
import pages
import scan_programs
from echojax.errors import UserError, unknown_name
from echojax.report.tables import Cell, Column, Table, number
from harness import Program, Record, Row
from scan_programs import ONE_LAUNCH, PASSES, TWO_LAUNCHES, Problem, Roofline, Shape
from selective_scan import implementations, register

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Flags:
    """Measure the selective scans that run here, in turns.

    A file that holds a part of the same comparison is continued. A page and pictures are written
    beside it.
    """

    implementations: tuple[str, ...] | None = None
    """Which to measure (all that run here). Only where named: "reference", the oracle; "both
    directions", a layer's two scans in one call, and "two directions", one after the other."""
    shape: Annotated[tuple[str, ...], UseAppendAction] = ()
    """A size to measure, as B,L,E,N; may be given again (a grid that suits the device)."""
    module: str | None = None
    """A scan of your own, as FILE.py:FUNCTION; see docs/extending.md for what it is called with."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] | None = None
    """Of u, delta, z, B and C; the rest is float32 (both, or float32 with --quick)."""
    against: Literal["torch", "plain"] | None = None
    """Measure others too: "torch", a PyTorch loop, and the CUDA scan of mamba_ssm where it is
    installed; "plain", lax.scan and lax.associative_scan as one writes them by oneself."""
    out: Path | None = None
    """The JSON file (runs/scans-DATE-TIME.json)."""
    quick: bool = False
    """A small grid and short timings."""
    cores: int | None = None
    """Use only so many cores (all)."""
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
_QUICK = [*((4, length, 64, 16) for length in (64, 256, 1024)), (16, 64, 64, 16)]
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
    unique = tuple(dict.fromkeys(shapes)), tuple(dict.fromkeys(dtypes))
    return Settings(*unique, (*names, *others), seconds, flags.max_memory_gib)


def _shape(text: str) -> Shape:
    parts = text.split(",")
    if len(parts) != 4 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        raise UserError(
            f"--shape {text!r} is not B,L,E,N: four whole numbers above 0, as 128,50,128,32"
        )
    return Shape(*map(int, parts))


def register_from(module: str) -> str:
    """Register the scan that FILE.py:FUNCTION names by the function's name; leave out its folder.

    Raises:
        UserError: there is no such file or function, or it cannot be imported.
    """
    file, _, name = module.rpartition(":")
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"--module {module}: no such file; name a scan as FILE.py:FUNCTION")
    try:
        scan = runpy.run_path(str(path)).get(name)
    except Exception as error:
        reason = harness.not_measured(error)["reason"]
        raise UserError(f"--module {module} cannot be imported: {reason}") from None
    if not callable(scan):
        raise UserError(f"--module {module}: {path} has no function {name!r}")
    try:
        register(name, scan)
    except ValueError as error:
        raise UserError(f"--module {module}: {error}") from None
    return f"{path.name}:{name}"


def compare(flags: Flags) -> None:
    """Measure what is missing, size by size, and write the page."""
    harness.use_cores(flags.cores)
    others = scan_programs.torch_scans() if flags.against == "torch" else []
    if flags.against == "torch" and not others:
        raise UserError(
            "--against torch needs PyTorch or mamba_ssm, and neither is installed; "
            "install torch, or leave --against out"
        )
    if others:  # PyTorch needs memory of the same GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    if flags.module is not None:
        flags = replace(flags, module=register_from(flags.module))
    here = implementations()
    compared = [*others, *(scan_programs.PLAIN if flags.against == "plain" else [])]
    settings = resolved(flags, here, compared, jax.default_backend() == "cpu")
    options = {"others": others, "time_limit": flags.time_limit}
    record = harness.record_of("scans", flags, settings, **options)
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
                for table in tables(record.of(case)):
                    harness.console.print(table.terminal(), *table.notes, sep="\n")
    finally:
        if rows := record.document.rows:
            parts: list[str | Table] = [*tables(rows), _METHOD, scan_programs.FORMULA]
            record.write_page("Selective scans compared", *parts, pictures=pictures(rows))


def measure(
    case: Row,
    settings: Settings,
    roofline: Roofline,
    record: Record,
    options: Mapping[str, Row] = MappingProxyType({}),
) -> list[Row]:
    """Return a row for each implementation and pass; one that fails is recorded, never raised.

    Args:
        case: size and dtype.
        settings: what else to measure.
        roofline: what the device can do.
        record: tells whether there is time.
        options: of the GPU kernels, by the name that stands in the place of an implementation.
    """
    shape = Shape(*(case[name] for name in Shape._fields))
    empty = {"status": "measured", "reason": None} | dict.fromkeys(_MEASURED)
    names = settings.implementations
    rows: list[Row] = [
        case | {"implementation": name, "pass": which} | empty for name in names for which in PASSES
    ]
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
            ready.append((row, _prepare(row, problem, wanted, settings, options)))
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
    """Return the time of a call in a queue where it was measured, else of a single call."""
    return float(row.get("queued_seconds") or row["median_seconds"])


_MEASURED = [
    *("median_seconds", "min_seconds", "repeats", "compile_seconds", "memory_bytes", "memory"),
    *("device_peak_bytes", "ns_per_element", "floor_seconds", "floor_share", "errors"),
]


def _prepare(
    row: Row, problem: Problem, wanted: Row, settings: Settings, options: Mapping[str, Row]
) -> Program:
    """Compile a program and run it for the first time, if it has room; record what that tells."""
    name, which = row["implementation"], row["pass"]
    program, needed = scan_programs.make_program(name, problem, which, options.get(name))
    row["compile_seconds"] = program.compile_seconds
    row["memory"], row["memory_bytes"] = program.memory or None, program.memory_bytes
    harness.check_memory(needed, settings.max_memory_gib)
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


_TIMES = ("forward ms", "ns each", "% of floor", "with backward ms", "ns each", "% of floor")
COLUMNS: tuple[Column | str, ...] = (
    "",
    *(Column(header, show=number) for header in (*_TIMES, "MiB", "compile s")),
    Column("value error", show=".1e"),
    Column("gradient error", show=".1e"),
)
_METHOD = (
    "Times are medians of runs of compiled programs until their results are there, on an "
    "accelerator of a call in a queue, with their quartiles; all programs of one size take turns, "
    "and the fastest is set off where its quartiles lie below those of all others. ns each is the "
    "time over B·L·E·N. MiB are the compiled program's arguments, outputs and temporary arrays. "
    "Errors are the largest absolute difference from a float64 oracle over the largest absolute "
    "expected value, on a few evenly spread batch entries and channels of the very program that "
    "is timed, at whole length; the gradient error is the worst over all arguments. Memory, "
    "compile time and errors are of the program with the backward pass."
)


def held_to_tolerance(row: Row) -> Row:
    """Return a row, failed where a scan of ours is off by too much."""
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[row["dtype"]]
    # Not "error > tolerance": an error that is not a number has failed.
    off = [(name, e) for name, e in (row["errors"] or {}).items() if not e <= tolerance]
    if not off or row["implementation"] in scan_programs.OTHERS:
        return row
    words = "; ".join(f"{name} is off by {value:.1e}" for name, value in off)
    return row | {"status": "failed", "reason": words}


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the tables of a comparison, a size and dtype each, a line an implementation."""
    found = []
    keys = (*Shape._fields, "dtype")
    for case in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        own = [row for row in rows if tuple(row[key] for key in keys) == case]
        names = dict.fromkeys(row["implementation"] for row in own)
        fastest = {
            which: _fastest([row for row in own if row["pass"] == which]) for which in PASSES
        }
        lines = [
            _line(name, [r for r in own if r["implementation"] == name], fastest) for name in names
        ]
        title = "B {}, L {}, E {}, N {}, {}".format(*case)
        notes = [
            f"{row['implementation']}, {row['pass']}: {row['status']}: {row['reason']}"
            for row in own
            if row["status"] != "measured"
        ]
        found.append(Table(COLUMNS, lines, title, notes))
    return found


def _quartiles(row: Row) -> list[float]:
    """Return what half of the times lie between, in milliseconds; the median in earlier files."""
    low_high = row.get("queued_quartiles_seconds") or row.get("quartiles_seconds")
    return [1e3 * x for x in low_high or 2 * [device_seconds(row)]]


def _fastest(rows: Sequence[Row]) -> str | None:
    """Return the implementation whose times lie below those of all others, quartile to quartile."""
    spans = {r["implementation"]: _quartiles(r) for r in rows if r["status"] == "measured"}
    name = min(spans, key=lambda name: spans[name][1], default=None)
    others = [low for other, (low, _) in spans.items() if other != name]
    return name if name and others and spans[name][1] < min(others) else None


def _line(name: str, rows: Sequence[Row], fastest: Mapping[Any, str | None]) -> list[Any]:
    line: list[Any] = [name]
    for row in rows:  # forward, then with the backward pass
        if row["status"] != "measured":
            line += [row["status"], None, None]
        else:
            share = 100 * row["floor_share"]
            time = Cell(
                number(1e3 * device_seconds(row)),
                " to ".join(map(number, _quartiles(row))),
                best=name == fastest[row["pass"]],
            )
            line += [time, row["ns_per_element"], share]
    errors = dict(row["errors"] or {})
    memory, value = row["memory_bytes"], errors.pop("y", None)
    line += [memory and memory / 2**20, row["compile_seconds"]]
    return [*line, value, max(errors.values(), default=None)]


def pictures(rows: Sequence[Row]) -> dict[str, bytes | None]:
    """Return time and memory against length and against batch, where sizes allow."""
    return {f"against-{axis}": _picture(rows, axis) for axis in ("length", "batch")}


def sweep(rows: Sequence[Row], axis: str) -> list[Row]:
    """Return the rows whose shapes differ only in one size, of the most values of it."""
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in Shape._fields if k != axis), []).append(row)
    return max(groups.values(), key=lambda group: len({row[axis] for row in group}), default=[])


_UNITS = {"median_seconds": (1e3, "ms"), "memory_bytes": (2**-20, "MiB")}


def _picture(rows: Sequence[Row], axis: str) -> bytes | None:
    swept = sweep([row for row in rows if row["status"] == "measured"], axis)
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    panels = []
    for dtype in dict.fromkeys(row["dtype"] for row in swept):
        for which, key in ((PASSES[0], "median_seconds"), *((PASSES[1], key) for key in _UNITS)):
            unit, unit_name = _UNITS[key]
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
            panels.append(pages.Panel(f"{which}, {dtype}, {unit_name}", axis, unit_name, lines))
    return pages.picture(panels, columns=3)


if __name__ == "__main__":
    harness.run(Flags, compare)
