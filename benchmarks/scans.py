"""Which selective scan is fastest here? python benchmarks/scans.py.

It measures the times of the forward pass, with the backward pass, of second derivatives and of a
token; memory; errors relative to the float64 oracle; and how close a time is to the floor
that the device's copy bandwidth and exponentials set.
"""

import math
import os
import runpy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import jax
from tyro.conf import UseAppendAction

import harness
import scan_problems
import scan_programs
import scan_report
from echojax.errors import UserError, unknown_name
from echojax.flags import PositiveNumber
from harness import NO_TIME, Program, Record, Row, Skipped
from scan_problems import Expected, Problem, Shape
from scan_programs import ONE_LAUNCH, SECOND, STEP, TWO_LAUNCHES, Roofline
from scan_report import device_seconds
from selective_scan import implementations, register

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Flags(harness.Flags):
    """Measure the selective scans that run here; the programs of one size take turns."""

    implementations: tuple[str, ...] | None = None
    """Implementations to measure (all that run here). These are measured only if named:
    "reference", the oracle; "both directions", a layer's two scans in one call, and "two
    directions", the same in two calls."""
    shape: Annotated[tuple[str, ...], UseAppendAction] = ()
    """A size to measure, as B,L,E,N; may be repeated (a grid that suits the device). If L is 1, a
    token of selective_scan_step is timed."""
    module: str | None = None
    """A scan of your own, as FILE.py:FUNCTION, to measure with the others; docs/extending.md says
    how it is called."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] | None = None
    """Dtypes of u, delta, z, B and C; the other arrays are float32 (both, or float32 with --quick).
    The default grid has the second dtype at its first size only."""
    decays: tuple[Literal["layer", "strong"], ...] | None = None
    """Time steps as in a freshly initialized layer, .001 to .1, or for strong decays, .1 to 50 (the
    first, and strong decays at one size of the grid)."""
    against: Literal["torch", "plain"] | None = None
    """Measure other scans, too: "torch", a PyTorch loop and, if installed, the CUDA scan of
    mamba_ssm; "plain", straightforward code with lax.scan and lax.associative_scan."""
    beside: tuple[Path, ...] = ()
    """JSON files of this command or of gpu_acceptance.py from other machines, to show as well."""
    quick: bool = False
    """Measure a small grid, with short timings."""
    cores: int | None = None
    """CPU cores to use (all)."""
    seconds: PositiveNumber | None = None
    """Time to spend on the repeats of each program (1, or 0.1 with --quick)."""
    max_memory_gib: PositiveNumber | None = None
    """Skip programs that need more memory (80 % of what is free)."""
    time_limit: float | None = None
    """Seconds after which no further case begins; the same command then continues (no limit)."""


@dataclass(frozen=True)
class Settings:
    """The settings by which two comparisons are the same; a case is a size, dtype and decays."""

    cases: tuple[Row, ...]
    implementations: tuple[str, ...]
    seconds: float
    max_memory_gib: float | None


# Each grid has a base size first, then sweeps over length, batch, channels and states.
_QUICK = [*((4, length, 64, 16) for length in (64, 256, 1024)), (16, 64, 64, 16)]
_CPU = [
    (128, 50, 128, 32),
    *((4, length, 64, 16) for length in (64, 256, 1024, 4096)),
    *((batch, 50, 128, 32) for batch in (2, 16)),
    *((16, 50, channels, 32) for channels in (32, 512)),
    *((16, 50, 128, states) for states in (8, 64)),
]
_ACCELERATOR = [
    (2048, 50, 128, 32),
    (2048, 200, 128, 32),
    (8, 16384, 2048, 16),
    *((8, length, 1024, 16) for length in (256, 1024, 4096, 16384)),
    *((batch, 50, 128, 32) for batch in (8, 32, 128, 512)),
    *((8, 1024, channels, 16) for channels in (256, 4096)),
    *((8, 1024, 1024, states) for states in (8, 64)),
]
_STRONG = Shape(4, 64, 64, 16)  # small enough for second derivatives
# A layer of the default model with a batch of users, and of mamba-130m with one row and with many.
_TOKENS = [Shape(128, 1, 128, 32), Shape(1, 1, 1536, 16), Shape(64, 1, 1536, 16)]


def resolved(flags: Flags, here: dict[str, str | None], others: list[str], cpu: bool) -> Settings:
    """Return the settings for these flags; raise ``UserError`` for one that cannot be used.

    ``here`` is ``selective_scan.implementations()``, ``others`` are further scans to compare.
    """
    dtypes = flags.dtypes or (DTYPES[:1] if flags.quick else DTYPES)
    decays = flags.decays or ("layer",)
    if flags.shape:
        found = list(product(map(_shape, flags.shape), dtypes, decays))
    else:
        sizes = _QUICK if flags.quick else _CPU if cpu else _ACCELERATOR
        grid = [Shape(*size) for size in sizes]
        found = list(product([*grid, *_TOKENS], dtypes[:1], decays))
        found += product(grid[:1], dtypes[1:], decays)
        found += [] if flags.decays else [(_STRONG, dtypes[0], "strong")]
    cases: list[Row] = [
        shape._asdict() | {"dtype": dtype, "decays": strength}
        for shape, dtype, strength in dict.fromkeys(found)
    ]
    names = [name for name, reason in here.items() if reason is None and name != "reference"]
    if flags.implementations:
        known: dict[str, str | None] = {**here, **dict.fromkeys([ONE_LAUNCH, TWO_LAUNCHES, STEP])}
        for name in flags.implementations:
            if name not in known:
                raise unknown_name("implementation in --implementations", name, list(known))
            if known[name] is not None:
                raise UserError(f"--implementations: {name} cannot run here: {known[name]}")
        names = [name for name in known if name in flags.implementations]
    seconds = flags.seconds if flags.seconds is not None else 0.1 if flags.quick else 1.0
    steps = [STEP] if any(case["length"] == 1 for case in cases) else []
    names = list(dict.fromkeys([*names, *others, *steps]))
    return Settings(tuple(cases), tuple(names), seconds, flags.max_memory_gib)


def _shape(text: str) -> Shape:
    parts = text.split(",")
    if len(parts) != 4 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        raise UserError(
            f"--shape {text!r} is not B,L,E,N: four whole numbers above 0, as 128,50,128,32"
        )
    return Shape(*map(int, parts))


def register_from(module: str) -> str:
    """Register the scan FILE.py:FUNCTION under the name FUNCTION.

    Return ``module`` without the folder of the file.

    Raises:
        UserError: there is no such file or function, it cannot be imported, or the name is taken.
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


def main(flags: Flags) -> None:
    """Measure the cases that have no row yet, and write the page."""
    harness.use_cores(flags.cores)
    others = scan_programs.torch_scans() if flags.against == "torch" else []
    if flags.against == "torch" and not others:
        raise UserError(
            "--against torch needs PyTorch or mamba_ssm, and neither is installed; "
            "install torch, or leave --against out"
        )
    if others:  # PyTorch needs memory on the same GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    if flags.module is not None:
        flags = replace(flags, module=register_from(flags.module))
    elsewhere = [row for path in flags.beside for row in scan_report.read_rows(path)]
    flags = replace(flags, beside=tuple(Path(path.name) for path in flags.beside))
    here = implementations()
    compared = [*others, *(scan_programs.PLAIN if flags.against == "plain" else [])]
    compared += [] if flags.module is None else [flags.module.rpartition(":")[2]]
    settings = resolved(flags, here, compared, jax.default_backend() == "cpu")
    record = harness.record_of("scans", flags, settings, others=others, time_limit=flags.time_limit)
    facts = record.document.facts
    facts["not here"] = {name: reason for name, reason in here.items() if reason is not None}
    # In a narrow terminal, lines of a table are wrapped by the terminal instead of losing columns.
    harness.console.width = max(harness.console.width, 150)
    try:
        with record:
            if "roofline" not in facts:
                facts["roofline"] = scan_programs.measure_roofline()._asdict()
            for case in record.missing(settings.cases):
                record.add(*measure(case, settings, Roofline(**facts["roofline"]), record))
                for table in scan_report.tables(record.of(case)):
                    harness.console.print(table.terminal(), *table.notes, sep="\n")
    finally:
        if rows := record.document.rows + elsewhere:
            drawn = {"against-size": scan_report.picture(rows)}
            heading = "Selective scans compared"
            record.write_page(heading, *scan_report.parts(rows), pictures=drawn)


def measure(
    case: Row,
    settings: Settings,
    roofline: Roofline,
    record: Record,
    options: Mapping[str, Row] = MappingProxyType({}),
) -> list[Row]:
    """Return a row for each implementation and pass of a case; failures are recorded, not raised.

    ``options`` are those of the GPU kernels, by the name that takes the place of an implementation.
    """
    shape = Shape(*(case[name] for name in Shape._fields))
    empty = {"status": "measured", "reason": None} | dict.fromkeys(_MEASURED)
    rows: list[Row] = [
        case | {"implementation": name, "pass": which} | empty
        for name in settings.implementations
        for which in scan_programs.passes(name, shape)
    ]
    try:
        harness.check_memory(
            scan_problems.input_bytes(shape, case["dtype"]), settings.max_memory_gib
        )
        problem = scan_problems.make_problem(shape, case["dtype"], case.get("decays", "layer"))
        wanted = problem.expected()
    except Exception as failure:
        return [row | harness.not_measured(failure) for row in rows]
    ready: list[tuple[Row, Program]] = []
    for row in rows:
        if record.out_of_time:  # all are measured next time, since they must take turns
            return [row | harness.not_measured(Skipped(NO_TIME)) for row in rows]
        try:
            ready.append((row, _prepare(row, problem, wanted, settings, options)))
        except Exception as failure:
            row |= harness.not_measured(failure)
    timed = harness.time_in_turns([program for _, program in ready], settings.seconds)
    for (row, _), samples in zip(ready, timed, strict=True):
        row |= samples.row()
        if row["status"] == "measured":
            seconds = device_seconds(row)
            row["ns_per_element"] = 1e9 * seconds / shape.elements
            floor = roofline.floor_seconds(shape, case["dtype"], row["pass"])
            row["floor_seconds"], row["floor_share"] = floor, floor and floor / seconds
    return rows


_MEASURED = [
    *("median_seconds", "min_seconds", "repeats", "compile_seconds", "memory_bytes", "memory"),
    *("device_peak_bytes", "ns_per_element", "floor_seconds", "floor_share", "errors"),
    "element_errors",
]


def _prepare(
    row: Row, problem: Problem, wanted: Expected, settings: Settings, options: Mapping[str, Row]
) -> Program:
    """Compile a program and run it once, if memory suffices; record its memory and its errors."""
    name, which = row["implementation"], row["pass"]
    program, needed = scan_programs.make_program(name, problem, which, options.get(name))
    row["compile_seconds"] = program.compile_seconds
    row["memory"], row["memory_bytes"] = program.memory or None, program.memory_bytes
    harness.check_memory(needed, settings.max_memory_gib)
    before = harness.device_peak_bytes()
    results = program.run()
    # The device reports the peak of the whole process, which is this program's only if it rose.
    if (peak := harness.device_peak_bytes()) > before:
        row["device_peak_bytes"] = peak
    if name not in (ONE_LAUNCH, TWO_LAUNCHES):
        actual = {key: problem.cut(key, scan_programs.as_array(x)) for key, x in results.items()}
        exact = (which == SECOND and wanted.second) or wanted.values
        errors = {key: scan_problems.error(x, exact[key]) for key, x in actual.items()}
        if wrong := ", ".join(key for key, value in errors.items() if not math.isfinite(value)):
            raise ArithmeticError(f"not finite: {wrong}")
        row["errors"] = errors
        if which != SECOND:
            row["element_errors"] = {
                key: scan_problems.element_error(x, exact[key], wanted.sums[key])
                for key, x in actual.items()
            }
    return program


def held_to_tolerance(row: Row) -> Row:
    """Return the row, marked as failed if it is a scan of ours whose errors are too large."""
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[row["dtype"]]
    # Not "error > tolerance", so that NaN fails.
    off = [(name, e) for name, e in (row["errors"] or {}).items() if not e <= tolerance]
    if not off or row["implementation"] in scan_programs.OTHERS:
        return row
    words = "; ".join(f"{name} is off by {value:.1e}" for name, value in off)
    return row | {"status": "failed", "reason": words}


if __name__ == "__main__":
    harness.run(Flags, main)
