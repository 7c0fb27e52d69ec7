"""What all benchmarks share: times, memory, and the record of a measurement.

A benchmark is a list of cases. The row of each goes into one JSON file as soon as it is measured,
so a command that was stopped continues with the cases that have no row yet.
"""

import logging
import math
import os
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
from types import FrameType
from typing import Any, NamedTuple, Self, TypeVar

import jax
import msgspec

import pages
from echojax.command_line import Terminal, log_to, parse
from echojax.errors import UserError, exit_on_user_error
from echojax.files import read_record, write_atomically, write_json
from echojax.machine import commit, describe
from echojax.report.tables import Table

log = logging.getLogger("echojax.benchmarks")
console = Terminal()

Row = dict[str, Any]
T = TypeVar("T")
NO_TIME = "no time left"
_CGROUP = Path("/sys/fs/cgroup")


class Skipped(Exception):  # noqa: N818 (no error)
    """There is nothing to measure, for the reason given."""


def not_measured(failure: Exception) -> Row:
    """Return ``status``, skipped or failed, and ``reason``, one line without paths."""
    words = " ".join(str(failure).split()) or "no reason given"
    # XLA's messages go on for pages.
    words = re.sub(r"(?<![\w/])/[\w.+-]+(/[\w.+-]+)+", "...", words)[:300]
    if isinstance(failure, Skipped):
        return {"status": "skipped", "reason": words}
    no_room = isinstance(failure, MemoryError) or re.search(
        "RESOURCE_EXHAUSTED|out of memory", words
    )
    reason = f"{type(failure).__name__}: {words}"
    return {"status": "skipped" if no_room else "failed", "reason": reason}


def check_memory(needed: int, max_memory_gib: float | None) -> None:
    """Raise ``Skipped`` where so many bytes exceed the limit, or 80 % of what is free."""
    free = _free_bytes() if max_memory_gib is None else None
    budget = int(0.8 * free) if free is not None else (max_memory_gib or math.inf) * 2**30
    if needed > budget:
        raise Skipped(f"needs {needed / 2**30:.3g} GiB, {budget / 2**30:.3g} GiB may be used")


def device_peak_bytes() -> int:
    """Return the most that this process ever had on the device; 0 where the device does not say."""
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
    """What is run again and again."""

    start: Callable[..., Any]  # puts one call on the device's queue and returns its results
    prepare: Callable[[], tuple[Any, ...]] = tuple  # makes the arguments of a call; not timed
    wait: Callable[[Any], Any] = jax.block_until_ready  # returns when the results are there
    compile_seconds: float | None = None  # of tracing too; ``None`` where nothing is compiled
    # Bytes by kind ("arguments", "outputs", "temporary") where the compiler says.
    memory: dict[str, int] = {}  # noqa: RUF012 (never changed)

    @property
    def memory_bytes(self) -> int | None:
        """All of the memory; ``None`` where the compiler does not say."""
        return sum(self.memory.values()) if self.memory else None

    def run(self) -> Any:
        """Start a call, wait for it and return its results."""
        results = self.start(*self.prepare())
        self.wait(results)
        return results

    def seconds(self, calls: int = 1) -> float:
        """Return the seconds of a call, of one or of a queue of which only the last is awaited."""
        arguments = self.prepare()
        began = time.perf_counter()
        for _ in range(calls):
            results = self.start(*arguments)
        self.wait(results)
        return (time.perf_counter() - began) / calls


def compiled(function: Any, prepare: Callable[[], tuple[Any, ...]], **static: Any) -> Program:
    """Compile a jitted function for the arguments that ``prepare`` makes; nothing runs yet."""
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
    """Seconds of the calls of a program, or why it failed."""

    single: list[float]  # of a call that is waited for: what a program that needs the result pays
    # Of a call in a queue, on an accelerator: the device's own time, where a call takes longer on
    # the device than its start on the host.
    queued: list[float]
    failure: Exception | None = None

    def row(self) -> Row:
        """Return medians and quartiles, the minimum and how many there are."""
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
    """Return the lower and the upper one."""
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return [low, high]


def time_in_turns(
    programs: Sequence[Program], seconds: float, *, least: int = 3, most: int = 200
) -> list[Samples]:
    """Time programs that have all run before, round by round, so that noise hits all alike.

    So many seconds are spent on each in all, for 2 or more samples of it.
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
                    # A queue of one is a single call: what is slow is not run twice as often.
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
    """What the JSON file of a benchmark holds."""

    command: str
    date: str
    machine: Row
    commit: str | None = None
    settings: Row
    facts: Row = msgspec.field(default_factory=dict)
    finished: bool
    rows: list[Row]


class Record:
    """The file of a measurement, whole on disk after every row.

    Where it holds a part of this very measurement, that is continued: ``settings`` are what makes
    two measurements the same one, of the same machine. As a context: SIGINT and SIGTERM end the
    command, and what there is stays in the file. ``command`` is as a user types it, without paths;
    ``others`` are scans by others that are measured too; after ``time_limit`` seconds no further
    case begins.
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
        settings = msgspec.json.decode(msgspec.json.encode(settings))  # as they are read back
        device = jax.devices()[0]
        machine = describe(list(others)) | {"devices": jax.device_count()}
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
        def stop(signum: int, frame: FrameType | None) -> None:
            raise KeyboardInterrupt(signum)

        self._before = {kind: signal.signal(kind, stop) for kind in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: Any, stop: BaseException | None, trace: Any) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
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
            raise SystemExit(128 + (stop.args[0] if stop.args else signal.SIGINT)) from None

    @property
    def out_of_time(self) -> bool:
        """Whether the time limit is over."""
        return self.time_limit is not None and time.monotonic() - self._began > self.time_limit

    def of(self, case: Row) -> list[Row]:
        """Return the rows of a case."""
        return [row for row in self.document.rows if case.items() <= row.items()]

    def missing(self, cases: Sequence[Row]) -> Iterator[Row]:
        """Yield the cases that have no row yet, with a line about each and the time left."""
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
        """Give a row to fill, and keep it; a failure inside becomes its status and reason."""
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
        """Write the file as it stands; its folder is made."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, msgspec.to_builtins(self.document))
        except OSError as error:
            raise UserError(f"--out {self.path} cannot be written ({error.strerror})") from None

    def write_page(
        self, heading: str, *parts: str | Table, pictures: dict[str, bytes | None]
    ) -> None:
        """Write the page about the record, and the pictures by name, beside the JSON."""
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
    """What every benchmark takes."""

    out: Path | None = None
    """The JSON file (runs/SCRIPT-DATE-TIME.json), with a page beside it, if any; one that holds a
    part of the same measurement is continued."""


@dataclass(frozen=True, kw_only=True)
class DataFlags(Flags):
    """What every benchmark on data sets takes."""

    data_dir: Path | None = None
    """Folder that holds the data sets' files."""

    @property
    def data_folder(self) -> str | None:
        """The folder, as echojax takes it."""
        return None if self.data_dir is None else str(self.data_dir)


def title(case: Row) -> str:
    """Return a case in words."""
    return "  ".join(f"{name} {value}" for name, value in case.items() if value is not None)


def run(flags: type[T], measure: Callable[[T], None]) -> None:
    """Run a command: measure with the flags of the command line, mistakes in one line."""
    with exit_on_user_error():
        log_to(console)
        measure(parse(flags, args=sys.argv[1:]))


def record_of(name: str, flags: Any, settings: Any = None, **options: Any) -> Record:
    """Return the record of NAME.py: of ``flags.out``, or of runs/NAME-DATE-TIME.json.

    ``settings`` are by default all flags but folders and files; the options are those of
    ``Record``.
    """
    if settings is None:
        names = [field.name for field in fields(flags) if field.name not in ("out", "data_dir")]
        settings = {name: getattr(flags, name) for name in names}
    path = flags.out or Path("runs") / time.strftime(f"{name}-%Y%m%d-%H%M%S.json")
    return Record(path, command_of(f"{name}.py", flags), settings, **options)


def command_of(script: str, flags: Any) -> str:
    """Return the command of a dataclass of flags: those that differ from the defaults, no paths."""
    words = [f"python benchmarks/{script}"]
    for field in fields(flags):
        value, flag = getattr(flags, field.name), f"--{field.name.replace('_', '-')}"
        if value in (field.default, False) or isinstance(value, Path):
            continue
        if isinstance(value, tuple) and field.name == "shape":  # given once for each
            words += [f"{flag} {one}" for one in value]
        elif isinstance(value, tuple):
            words += [flag, *(shlex.quote(str(one)) for one in value)]
        else:
            words.append(flag if value is True else f"{flag} {value}")
    return " ".join(words)


def check_positive(**values: float | None) -> None:
    """Raise ``UserError`` for a flag whose value is no number above 0."""
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be a number above 0, not {value:g}")


def use_devices(devices: int) -> None:
    """Simulate so many devices on a CPU; JAX must not have started."""
    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)


def use_cores(cores: int | None) -> None:
    """Use only so many cores; XLA counts them when it starts."""
    if cores is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("--cores cannot be set on this system; leave it out")
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= cores <= len(allowed):
        raise UserError(f"--cores must be from 1 to {len(allowed)}, not {cores}")
    os.sched_setaffinity(0, allowed[:cores])
