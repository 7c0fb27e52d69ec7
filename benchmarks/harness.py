"""The harness of all benchmarks: times, memory, and the record of a measurement.

A benchmark is a list of cases. The row of each case is written to one JSON file as soon as it is
measured, so that a command that was stopped continues with the cases that have no row yet.
"""

import logging
import math
import os
import platform
import re
import shlex
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import jax
import msgspec

import pages
from echojax.allocator import keep_freed_memory
from echojax.command_line import Terminal, log_to, parse
from echojax.errors import UserError, exit_on_user_error
from echojax.files import read_record, write_atomically, write_json
from echojax.machine import commit, cores, processor, versions
from echojax.report.tables import Table
from echojax.signals import stopping_at_once

log = logging.getLogger("echojax.benchmarks")
console = Terminal()

Row = dict[str, Any]
T = TypeVar("T")
NO_TIME = "no time left"
_CGROUP = Path("/sys/fs/cgroup")


class Skipped(Exception):  # noqa: N818 (no error)
    """A case cannot be measured, for the given reason."""


def not_measured(failure: Exception) -> Row:
    """Return the ``status``, skipped or failed, and the ``reason``, one line without paths."""
    words = " ".join(str(failure).split()) or "no reason given"
    # XLA's messages may be pages long.
    words = re.sub(r"(?<![\w/])/[\w.+-]+(/[\w.+-]+)+", "...", words)[:300]
    if isinstance(failure, Skipped):
        return {"status": "skipped", "reason": words}
    no_room = isinstance(failure, MemoryError) or re.search(
        "RESOURCE_EXHAUSTED|out of memory", words
    )
    reason = f"{type(failure).__name__}: {words}"
    return {"status": "skipped" if no_room else "failed", "reason": reason}


def check_memory(needed: int, max_memory_gib: float | None) -> None:
    """Raise ``Skipped`` if the needed bytes exceed the limit, by default 80 % of what is free."""
    free = _free_bytes() if max_memory_gib is None else None
    budget = int(0.8 * free) if free is not None else (max_memory_gib or math.inf) * 2**30
    if needed > budget:
        raise Skipped(f"needs {needed / 2**30:.3g} GiB, {budget / 2**30:.3g} GiB may be used")


def device_peak_bytes() -> int:
    """Return the peak memory of this process on the device; 0 if the device does not report it."""
    return int((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


def _free_bytes() -> int | None:
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    try:
        found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
        system = [1024 * int(found[1])] if found else []
    except OSError:
        system = []
    try:
        limit, used = (
            (_CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current")
        )
        container = [int(limit) - int(used)] if limit.isdecimal() else []  # "max" is no limit
    except OSError:
        container = []
    return min(system + container, default=None)


class Program(NamedTuple):
    """A program whose calls are timed."""

    start: Callable[..., Any]  # puts one call on the device's queue and returns its results
    prepare: Callable[[], tuple[Any, ...]] = tuple  # makes the arguments of a call; not timed
    wait: Callable[[Any], Any] = jax.block_until_ready  # returns when the results are ready
    compile_seconds: float | None = None  # with tracing; ``None`` if nothing is compiled
    # Bytes by kind ("arguments", "outputs", "temporary"), if the compiler reports them.
    memory: dict[str, int] = {}  # noqa: RUF012 (never changed)

    @property
    def memory_bytes(self) -> int | None:
        """The memory of all kinds; ``None`` if the compiler does not report it."""
        return sum(self.memory.values()) if self.memory else None

    def run(self) -> Any:
        """Start a call, wait for it and return its results."""
        results = self.start(*self.prepare())
        self.wait(results)
        return results

    def seconds(self, calls: int = 1) -> float:
        """Return the mean seconds of calls, of which only the last one is awaited."""
        arguments = self.prepare()
        began = time.perf_counter()
        for _ in range(calls):
            results = self.start(*arguments)
        self.wait(results)
        return (time.perf_counter() - began) / calls


def compiled(function: Any, prepare: Callable[[], tuple[Any, ...]], **static: Any) -> Program:
    """Compile a jitted function for the arguments that ``prepare`` makes, without running it."""
    began = time.perf_counter()
    program = function.lower(*prepare(), **static).compile()
    seconds = time.perf_counter() - began
    memory, analysis = {}, program.memory_analysis()
    if analysis is not None:
        memory = {
            "arguments": int(analysis.argument_size_in_bytes),
            "outputs": int(analysis.output_size_in_bytes - analysis.alias_size_in_bytes),
            "temporary": int(analysis.temp_size_in_bytes),
        }
    return Program(program, prepare, compile_seconds=seconds, memory=memory)


class Samples(NamedTuple):
    """The seconds of the calls of a program, or why it failed."""

    single: list[float]  # of calls that are awaited one by one
    # On an accelerator, of calls in a queue: the time on the device, if a call takes longer there
    # than its start on the host.
    queued: list[float]
    failure: Exception | None = None

    def row(self) -> Row:
        """Return medians and quartiles, the minimum and the number of repeats."""
        if self.failure is not None:
            return not_measured(self.failure)
        row: Row = {
            "median_seconds": statistics.median(self.single),
            "quartiles_seconds": _quartiles(self.single),
            "min_seconds": min(self.single),
            "repeats": len(self.single),
        }
        if self.queued:
            row["queued_seconds"] = statistics.median(self.queued)
            row["queued_quartiles_seconds"] = _quartiles(self.queued)
        return row


def _quartiles(seconds: list[float]) -> list[float]:
    """Return the lower and the upper quartile."""
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return [low, high]


def time_in_turns(
    programs: Sequence[Program], seconds: float, *, least: int = 3, most: int = 200
) -> list[Samples]:
    """Time programs in turns, round by round, so that noise affects all of them alike.

    All must have run before. About ``seconds`` are spent on each program, for ``least`` to ``most``
    samples.
    """
    samples = [Samples([], []) for _ in programs]
    queues = jax.default_backend() != "cpu"
    spent = dict.fromkeys(range(len(programs)), 0.0)
    while spent:
        for place in list(spent):
            single, queued, _ = samples[place]
            try:
                single.append(programs[place].seconds())
                spent[place] += single[-1]
                if queues:
                    calls = max(1, min(round(0.01 / statistics.median(single)), 50))
                    # A queue of one is a single call: a slow program is not run once more.
                    queued.append(programs[place].seconds(calls) if calls > 1 else single[-1])
                    spent[place] += calls * queued[-1] if calls > 1 else 0.0
            except Exception as failure:
                samples[place] = Samples(single, queued, failure)
                del spent[place]
                continue
            if len(single) >= least and (spent[place] >= seconds or len(single) >= most):
                del spent[place]
    return samples


class Document(msgspec.Struct, kw_only=True):
    """The content of the JSON file of a benchmark."""

    command: str
    date: str
    machine: Row
    commit: str | None = None
    settings: Row
    facts: Row = msgspec.field(default_factory=dict)
    finished: bool
    rows: list[Row]


class Record:
    """The file of a measurement, which is written after every row.

    If the file holds a part of the same measurement, that is continued; two measurements are the
    same if machine and ``settings`` are equal. As a context manager, the record ends the command at
    a signal to stop, and keeps the rows so far. ``command`` is what a user types, without paths.
    ``others`` are scans of other projects that are measured too. After ``time_limit`` seconds, no
    further case begins.
    """

    def __init__(
        self,
        path: Path,
        command: str,
        settings: Any,
        *,
        others: Sequence[str] = (),
        time_limit: float | None = None,
    ):
        settings = msgspec.json.decode(msgspec.json.encode(settings))  # to compare with a file's
        device = jax.devices()[0]
        packages = ["echojax", "jax", "jaxlib", "numpy"]
        packages += ["torch", "mamba-ssm"] if others else []
        machine: Row = {
            "device": platform.machine() if device.platform == "cpu" else device.device_kind,
            "platform": device.platform,
            "processor": processor(),
            "cores": cores(),
            "system": platform.system(),
            "versions": versions(packages),
            "devices": jax.device_count(),
        }
        if flags := os.environ.get("XLA_FLAGS"):
            machine["xla_flags"] = flags
        if device.platform != "cpu":
            machine["runtime"] = " ".join(device.client.platform_version.split())
        self.path, self.time_limit, self._began = path, time_limit, time.monotonic()
        if path.exists():
            self.document = read_record(path, Document, cure="name another file with --out")
            self._check(settings, machine)
            self.document.rows = [row for row in self.document.rows if row.get("reason") != NO_TIME]
            self.document.finished = False
        else:
            self.document = Document(
                command=command,
                date=date.today().isoformat(),
                machine=machine,
                commit=commit(),
                settings=settings,
                finished=False,
                rows=[],
            )

    def _check(self, settings: Row, machine: Row) -> None:
        before = self.document.machine | self.document.settings
        for name, value in (machine | settings).items():
            if before.get(name) != value:
                raise UserError(
                    f"--out {self.path} was measured with {name.replace('_', ' ')} "
                    f"{before.get(name)}, not {value}; name another file"
                )

    def __enter__(self) -> Self:
        self._signals = stopping_at_once()
        self._signals.__enter__()
        return self

    def __exit__(self, kind: Any, stop: BaseException | None, trace: Any) -> None:
        self._signals.__exit__(None, None, None)
        if stop is None:
            late = any(row.get("reason") == NO_TIME for row in self.document.rows)
            self.document.finished = not late and not self.out_of_time
            self.write()
        if stop is None and self.document.finished:
            log.info(f"results: {self.path}")
        elif stop is None or isinstance(stop, KeyboardInterrupt):
            words = "interrupted" if stop else NO_TIME
            log.info(f"{words}; the same command with --out {self.path} continues")
        if isinstance(stop, KeyboardInterrupt):
            raise SystemExit(128 + getattr(stop, "signum", signal.SIGINT)) from None

    @property
    def out_of_time(self) -> bool:
        """Whether the time limit has passed."""
        return self.time_limit is not None and time.monotonic() - self._began > self.time_limit

    def of(self, case: Row) -> list[Row]:
        """Return the rows of a case."""
        return [row for row in self.document.rows if case.items() <= row.items()]

    def missing(self, cases: Sequence[Row]) -> Iterator[Row]:
        """Yield the cases that have no row yet; log each of them, and the time that is left."""
        left = [case for case in cases if not self.of(case)]
        done = len(cases) - len(left)
        if done:
            log.info(f"{done} of {len(cases)} cases are in {self.path} already")
        began = time.monotonic()
        for number, case in enumerate(left):
            if self.out_of_time:
                return
            seconds = (time.monotonic() - began) / max(number, 1) * (len(left) - number)
            rest = f"  (about {seconds:,.0f} s left)" if number else ""
            log.info(f"[{done + number + 1}/{len(cases)}] {title(case)}{rest}")
            yield case

    @contextmanager
    def row(self, case: Row) -> Iterator[Row]:
        """Yield a row to fill, and add it; an exception inside becomes its status and reason."""
        row = {**case, "status": "measured", "reason": None}
        try:
            yield row
        except Exception as failure:
            row |= not_measured(failure)
            log.info(f"{row['status']}: {row['reason']}")
        self.add(row)

    def add(self, *rows: Row) -> None:
        """Append rows and write the file."""
        self.document.rows += rows
        self.write()

    def write(self) -> None:
        """Write the file; its folder is created if it is missing."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, msgspec.to_builtins(self.document))
        except OSError as error:
            raise UserError(f"--out {self.path} cannot be written ({error.strerror})") from None

    def write_page(
        self, heading: str, *parts: str | Table, pictures: dict[str, bytes | None]
    ) -> None:
        """Write the page about the record, and its pictures by name, next to the JSON file."""
        shown = []
        for name, png in pictures.items():
            if png is not None:
                path = self.path.with_name(f"{self.path.stem}-{name}.png")
                write_atomically(path, png)
                shown.append(f"![{name}]({path.name})")
        text = pages.page(self.document, self.path.name, heading, *parts, *shown)
        write_atomically(self.path.with_suffix(".md"), text)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags of every benchmark."""

    out: Path | None = None
    """The JSON file (runs/SCRIPT-DATE-TIME.json); a page, if any, is written next to it. A file
    that holds a part of the same measurement is continued."""


@dataclass(frozen=True, kw_only=True)
class DataFlags(Flags):
    """The flags of every benchmark on data sets."""

    data_dir: Path | None = None
    """Folder that holds the data sets' files."""

    @property
    def data_folder(self) -> str | None:
        """The folder as a string, which echojax expects."""
        return None if self.data_dir is None else str(self.data_dir)


def train_command(data_dir: Path | None, *words: str) -> list[str]:
    """Return the command of a training in a process of its own."""
    script = Path(__file__).parent.parent / "experiments" / "train.py"
    data = ["--data-dir", str(data_dir)] if data_dir else []
    return [sys.executable, str(script), *data, *words]


def title(case: Row) -> str:
    """Return a case as text."""
    return "  ".join(f"{name} {value}" for name, value in case.items() if value is not None)


def run(flags: type[T], measure: Callable[[T], None]) -> None:
    """Run a benchmark with the flags of the command line; errors of the user are one line."""
    with exit_on_user_error():
        log_to(console)
        keep_freed_memory()
        measure(parse(flags, args=sys.argv[1:]))


def record_of(name: str, flags: Any, settings: Any = None, **options: Any) -> Record:
    """Return the record of NAME.py, in the file ``flags.out`` or runs/NAME-DATE-TIME.json.

    ``settings`` are by default all flags except ``out`` and ``data_dir``; the options are those of
    ``Record``.
    """
    if settings is None:
        names = [field.name for field in fields(flags) if field.name not in ("out", "data_dir")]
        settings = {name: getattr(flags, name) for name in names}
    path = flags.out or Path("runs") / time.strftime(f"{name}-%Y%m%d-%H%M%S.json")
    return Record(path, command_of(f"{name}.py", flags), settings, **options)


def command_of(script: str, flags: Any) -> str:
    """Return the command with the flags that differ from their defaults, without paths."""
    words = [f"python benchmarks/{script}"]
    for field in fields(flags):
        value, flag = getattr(flags, field.name), f"--{field.name.replace('_', '-')}"
        if value in (field.default, False) or isinstance(value, Path):
            continue
        if isinstance(value, tuple) and field.name == "shape":  # the flag is repeated
            words += [f"{flag} {one}" for one in value]
        elif isinstance(value, tuple):
            words += [flag, *(shlex.quote(str(one)) for one in value)]
        else:
            words.append(flag if value is True else f"{flag} {value}")
    return " ".join(words)


def use_devices(devices: int) -> None:
    """Simulate several devices on a CPU; JAX must not have started."""
    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)


def use_cores(cores: int | None) -> None:
    """Use only this number of cores; XLA must not have started."""
    if cores is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("--cores cannot be set on this system; leave it out")
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= cores <= len(allowed):
        raise UserError(f"--cores must be from 1 to {len(allowed)}, not {cores}")
    os.sched_setaffinity(0, allowed[:cores])
