"""``--profile N``: a trace of N steps, how their time was spent, and the cost of compilation.

XLA names what it runs by the instruction of the compiled program, on a CPU as on an accelerator:
those that are collectives in the program's text are collectives in the trace. The trace is read
from the profiler's ``.xplane.pb``: its ``.trace.json.gz`` leaves out all events beyond a million,
which a few steps on a CPU exceed.
"""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from echojax.files import write_json
from echojax.hlo import CONTAINERS, computations, kind_of
from echojax.training.step import CompiledStep

log = logging.getLogger(__name__)

# What the loop marks in the trace: a step, and in it the wait for a batch.
STEP, INPUT = "echojax step", "echojax input"
# Steps before the trace: the first ones fill caches and buffers, the others are timed.
_WARM, _TIMED = 2, 3

# How a device spends its time. The first four add up to the wall time: it computes; it only
# communicates, or waits to; it is idle while the loop waits for a batch; it is idle for any other
# reason. "hidden" is the time in which it communicates while it computes something else.
PARTS = ("compute", "collectives", "input", "host", "hidden")

Spans = list[tuple[float, float]]  # [start, end] in ns
Device = Mapping[str, Spans]  # what it ran: "containers", "collectives" and "compute"


class Profile:
    """Traces ``steps`` steps of a training loop, once; does nothing if that is 0.

    A trace that is not complete ends with its epoch, and another one begins in the next. They are
    written to ``profile/`` and ``profile.json`` in the run folder.
    """

    def __init__(self, steps: int, folder: Path):
        self._left, self._folder = steps, folder
        self._program: dict[str, Any] = {}
        self._text = ""
        self._done = 0  # steps of this start
        self._untraced = 0.0  # seconds of the steps that are timed before the trace
        self._began: float | None = None  # when the running part of these began
        self._step: jax.profiler.TraceAnnotation | None = None  # the traced step that is running
        self._traces: list[TraceTimes] = []

    def record_program(self, program: CompiledStep) -> None:
        """Record the step's program, and what its compilation took."""
        if self._left:
            self._text = program.run.as_text() or ""
            self._program = {"compile": program.seconds, "memory": program.memory}

    def next_step(self, states: Any) -> float:
        """Begin a step from ``states``; return the seconds that the profiling itself took."""
        if not self._left:
            return 0.0
        began = time.perf_counter()
        if self._done in (_WARM, _WARM + _TIMED) or (self._step and self._left == 1):
            self.end_epoch(states)
        if self._left and self._done >= _WARM + _TIMED:
            self._mark()
        elif self._left and self._done >= _WARM and self._began is None:
            self._began = time.perf_counter()
        self._done += 1
        return time.perf_counter() - began

    def waiting(self) -> AbstractContextManager[Any]:
        """Return what marks the wait for a batch in the trace."""
        return jax.profiler.TraceAnnotation(INPUT)

    def end_epoch(self, states: Any) -> None:
        """Wait until the devices have done their steps; stop the clock, or the trace."""
        if not self._left:
            return
        jax.block_until_ready(states)
        if self._began is not None:
            self._untraced += time.perf_counter() - self._began
            self._began = None
        if self._step is not None:
            self._close_step()
            jax.profiler.stop_trace()
            self._traces.append(read_trace(self._folder / "profile", self._text))
            if not self._left:
                self._report()

    def end_run(self) -> None:
        """Report what was traced, if the run ended before all steps were."""
        if self._traces and self._left:
            self._report()
        elif self._left:
            log.info(
                f"profile: no trace; the first {_WARM + _TIMED} steps are left out, and there were "
                f"{self._done}"
            )
        self._left = 0

    def _mark(self) -> None:
        """Mark the next step in the trace, which begins if none is running."""
        if self._step is not None:
            self._close_step()
        else:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every Python call: a multiple of all other events
            jax.profiler.start_trace(str(self._folder / "profile"), profiler_options=options)
        self._step = jax.profiler.StepTraceAnnotation(STEP, step_num=self._done)
        self._step.__enter__()

    def _close_step(self) -> None:
        assert self._step is not None
        self._step.__exit__(None, None, None)
        self._step, self._left = None, self._left - 1

    def _report(self) -> None:
        found = figures(total(self._traces), self._untraced / _TIMED, self._program)
        write_json(self._folder / "profile.json", found)
        for line in lines(found):
            log.info(line)
        log.info(f"trace: {self._folder / 'profile'} (its .trace.json.gz opens in Perfetto)")


class TraceTimes(NamedTuple):
    """How the time of traced steps was spent."""

    steps: int  # the number of steps
    wall: float  # their seconds
    waited: float  # the seconds in which the loop waited for batches, devices idle or not
    devices: int  # the number of this host's devices in the trace
    # Seconds of each of ``PARTS``, the mean over devices; NaN if the backend's trace has no events
    # of the program.
    parts_P: np.ndarray


def read_trace(folder: Path, program: str) -> TraceTimes:
    """Return the times of the newest trace under ``folder``, of a program with this HLO text."""
    newest = max(
        folder.glob("plugins/profile/*/*.xplane.pb"), key=lambda path: path.stat().st_mtime
    )
    opcodes = {i.name: i.opcode for lines in computations(program)[0].values() for i in lines}
    marks: dict[str, Spans] = {STEP: [], INPUT: []}
    devices: dict[str, dict[str, Spans]] = defaultdict(lambda: defaultdict(list))
    for plane in jax.profiler.ProfileData.from_file(str(newest)).planes:
        on_device = plane.name.startswith("/device:")
        for line in plane.lines:
            for event in line.events:
                span = event.start_ns, event.end_ns
                if event.name in marks:
                    marks[event.name].append(span)
                elif on_device or event.name in opcodes:
                    stats = dict(event.stats)
                    name = stats.get("hlo_op") or (event.name if line.name == "XLA Ops" else "")
                    opcode = opcodes.get(name.partition(" = ")[0].lstrip("%"))
                    if opcode is not None:
                        device = f"{plane.name} {stats.get('device_ordinal', '')}"
                        devices[device][_kind(opcode)].append(span)
    return split(marks[STEP], marks[INPUT], list(devices.values()))


def _kind(opcode: str) -> str:
    if kind_of(opcode):
        return "collectives"
    return "containers" if opcode in CONTAINERS else "compute"


def split(steps: Spans, inputs: Spans, devices: Sequence[Device]) -> TraceTimes:
    """Divide the time of the steps (spans in ns) among the parts, device by device."""
    wall, waited = (sum(end - start for start, end in spans) / 1e9 for spans in (steps, inputs))
    shares = [_of_one_device(steps, inputs, device) for device in devices]
    parts_P = np.mean(shares, axis=0) if shares else np.full(len(PARTS), np.nan)
    return TraceTimes(len(steps), wall, waited, len(devices), parts_P)


def total(traces: Sequence[TraceTimes]) -> TraceTimes:
    """Return the times of several traces together."""
    steps, walls, waits, devices, parts = zip(*traces, strict=True)
    return TraceTimes(sum(steps), sum(walls), sum(waits), devices[0], np.sum(parts, axis=0))


def _of_one_device(steps: Spans, inputs: Spans, device: Device) -> list[float]:
    """Return the seconds of each of ``PARTS`` on one device."""
    kinds = [device.get(kind, []) for kind in ("containers", "collectives", "compute")]
    every = (steps, inputs, *kinds)
    edges_N = np.unique(np.concatenate([np.ravel(spans) for spans in every]))
    middles_N = (edges_N[1:] + edges_N[:-1]) / 2
    in_step, waiting, containing, exchanging, computing = (
        _covered(spans, middles_N) for spans in every
    )
    exposed, idle = exchanging & ~computing, ~(containing | exchanging | computing)
    masks = (~idle & ~exposed, exposed, idle & waiting, idle & ~waiting, exchanging & computing)
    seconds_N = np.diff(edges_N) / 1e9
    return [float(seconds_N[mask & in_step].sum()) for mask in masks]


def _covered(spans: Spans, points_N: np.ndarray) -> np.ndarray:
    """Return for each point whether a span covers it, (N,) bool."""
    starts_S, ends_S = np.sort(np.reshape(spans, (-1, 2)), axis=0).T
    return np.searchsorted(starts_S, points_N) > np.searchsorted(ends_S, points_N)


def figures(times: TraceTimes, untraced: float, program: dict[str, Any]) -> dict[str, Any]:
    """Return the content of ``profile.json``, with "unknown" for what the backend does not report.

    ``untraced`` is the time of a step before the trace in seconds; ``program`` has "compile" and
    "memory".
    """
    live = sum(s.data.nbytes for x in jax.live_arrays() for s in x.addressable_shards)
    stats = jax.local_devices()[0].memory_stats() or {}
    known = ["unknown" if math.isnan(seconds) else seconds for seconds in times.parts_P.tolist()]
    parts = dict(zip(PARTS, known, strict=True))
    hidden = parts.pop("hidden")
    return {
        "steps": times.steps,
        "wall_seconds": times.wall,
        "seconds_a_step_before_the_trace": untraced,
        "seconds": parts,
        "waited_for_input_seconds": times.waited,
        "collectives_behind_compute_seconds": hidden,
        "devices": times.devices,
        "compile": program["compile"],
        "memory": {
            "step": program["memory"] or "unknown",
            "live_array_bytes": live,
            "device_bytes_in_use": stats.get("bytes_in_use", "unknown"),
            "device_peak_bytes": stats.get("peak_bytes_in_use", "unknown"),
        },
    }


def lines(found: dict[str, Any]) -> list[str]:
    """Return the content of ``profile.json`` as the lines of a small table."""
    steps, wall = found["steps"], found["wall_seconds"]
    before = found["seconds_a_step_before_the_trace"]
    table = [
        f"profile: {steps} steps of {1e3 * wall / steps:.2f} ms ({1e3 * before:.2f} ms before the "
        "trace was on)"
    ]
    for name, seconds in found["seconds"].items():
        shown = "unknown"
        if not isinstance(seconds, str):
            shown = f"{1e3 * seconds / steps:10.2f} ms a step  {100 * seconds / wall:5.1f} %"
        table.append(f"  {name:<12}{shown}")
    waited = 1e3 * found["waited_for_input_seconds"] / steps
    table.append(f"  the loop waited {waited:.2f} ms a step for a batch, with devices idle or not")
    times, memory = found["compile"], found["memory"]
    made = ", ".join(f"{k} {times[k]:.2f} s" for k in ("trace", "lower", "compile"))
    table.append(f"program: {made} ({'from the cache' if times['cached'] else 'not cached'})")
    step = memory["step"]
    if not isinstance(step, str):
        step = ", ".join(f"{kind} {shown_bytes(size)}" for kind, size in step.items())
    table.append(f"memory: the step on a device: {step}")
    table.append(f"        arrays alive on this host: {shown_bytes(memory['live_array_bytes'])}")
    return table


def shown_bytes(size: float) -> str:
    """Return a size in the unit that suits it."""
    power = min(3, (int(max(size, 1)).bit_length() - 1) // 10)
    return f"{size / 2 ** (10 * power):,.4g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"
